"""The answer to a ConversionReview: all of its objects in the requested version, or the reason why none of them."""

from __future__ import annotations

import logging

from oneagent.common import logs
from oneagent.common.dynakube.api import conversion
from oneagent.common.kubernetes import fields
from oneagent.webhook import admission_review
from oneagent.webhook.admission_review import ConversionRequest

log = logging.getLogger(__name__)


def answer(asked: ConversionRequest) -> tuple[str, str, bytes]:
    """Outcome and reason, to be counted, and the answer."""
    converted = []
    for obj in asked.objects:
        try:
            converted.append(conversion.convert(obj, asked.desired))
        except fields.FieldError as error:
            message = f"{_name(obj)} can't be converted to {asked.desired[:80]}: {error}"
            log.warning("not converted", extra=logs.fields(reason=message))
            return "failed", "FieldError", admission_review.unconverted(asked.uid, message)
        except Exception as error:
            log.exception("not converted", extra=logs.fields(object=_name(obj), wanted=asked.desired))
            message = f"{_name(obj)} can't be converted to {asked.desired[:80]}: {type(error).__name__}"
            return "failed", "InternalError", admission_review.unconverted(asked.uid, message)
    return "converted", "", admission_review.converted(asked.uid, converted)


def _name(obj: dict[str, object]) -> str:
    metadata = obj.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    return f"{str(obj.get('kind'))[:80]} {known.get('namespace', '')}/{known.get('name', '')}"
