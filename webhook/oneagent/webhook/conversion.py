"""The answer to a ConversionReview: all of its objects in the requested version, or the reason why none of them.

One object after the other is decoded and encoded again, so that a long list takes little memory, and others are
answered in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from oneagent.common import logs
from oneagent.common.dynakube.api import conversion
from oneagent.common.kubernetes import fields
from oneagent.webhook import admission_review
from oneagent.webhook.admission_review import ConversionRequest, InvalidError, TooLargeError

log = logging.getLogger(__name__)

_OBJECTS_AT_ONCE: Final = 20
"""Objects that are converted before other requests have their turn"""


class _UnconvertibleError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def answer(asked: ConversionRequest) -> tuple[str, str, bytes]:
    """Outcome and reason, to be counted, and the answer."""
    converted = []
    try:
        for number, raw in enumerate(asked.objects, 1):
            converted.append(_convert(raw, asked.desired))
            if number % _OBJECTS_AT_ONCE == 0:
                await asyncio.sleep(0)
    except _UnconvertibleError as error:
        log.warning("not converted", extra=logs.fields(reason=error))
        return "failed", error.reason, admission_review.unconverted(asked.uid, str(error))
    return "converted", "", admission_review.converted(asked.uid, converted)


def _convert(raw: msgspec.Raw, desired: str) -> msgspec.Raw:
    """`_UnconvertibleError`."""
    obj: Mapping[str, object] = {}
    try:
        obj = decoded = admission_review.decoded_tree(raw) or {}
        return admission_review.encoded(conversion.convert(decoded, desired))
    except fields.FieldError as error:
        raise _UnconvertibleError("FieldError", f"{_about(obj, desired)}: {error}") from error
    except TooLargeError as error:
        raise _UnconvertibleError("TooLarge", f"{_about(obj, desired)}: {error}") from error
    except InvalidError as error:
        raise _UnconvertibleError("FieldError", f"{_about(obj, desired)}: {error}") from error
    except Exception as error:
        log.exception("not converted", extra=logs.fields(object=_about(obj, desired)))
        raise _UnconvertibleError("InternalError", f"{_about(obj, desired)}: {type(error).__name__}") from error


def _about(obj: Mapping[str, object], desired: str) -> str:
    metadata = obj.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    namespace, name = (str(known.get(key, ""))[:80] for key in ("namespace", "name"))
    return f"{str(obj.get('kind', 'object'))[:80]} {namespace}/{name} can't be converted to {desired[:80]}"
