"""Rolling update of host agents: the mode's `rollingUpdate`, or else the former flag `oneagent-max-unavailable`.

The API server refuses a DaemonSet unless exactly one of `maxUnavailable` and `maxSurge` is more than 0. Its default for
the first is 1, so a surge alone is completed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.dynakube.api import feature_flags
from oneagent.common.kubernetes import fields

FLAG: Final = "oneagent-max-unavailable"

_FLAG_FORM: Final = re.compile(r"[1-9][0-9]{0,4}|([1-9][0-9]?|100)%")
_FORM: Final = re.compile(r"[0-9]{1,5}|([0-9]{1,2}|100)%")


def read(obj: Mapping[str, Any], path: str) -> dict[str, int | str]:
    """Return `rollingUpdate` of the DaemonSet; `FieldError` for one that the API server would refuse."""
    if not fields.mapping(obj, path):
        return {"maxUnavailable": _flag(obj)}
    unavailable, surge = _amount(obj, f"{path}.maxUnavailable"), _amount(obj, f"{path}.maxSurge")
    if _is_none(surge):
        unavailable = 1 if unavailable is None else unavailable
        if _is_none(unavailable):
            raise fields.FieldError(f"{path}.maxUnavailable", unavailable, "must be at least 1, or set maxSurge")
        return {"maxUnavailable": unavailable}
    if not _is_none(unavailable):
        raise fields.FieldError(f"{path}.maxUnavailable", unavailable, "must be 0 together with maxSurge")
    assert surge is not None
    return {"maxUnavailable": 0, "maxSurge": surge}


def _amount(obj: Mapping[str, Any], path: str) -> int | str | None:
    """Return a number or a percentage; None if absent."""
    value = fields.at(obj, path)
    if value is None:
        return None
    text = fields.scalar(value)
    if isinstance(value, bool) or not _FORM.fullmatch(text):
        raise fields.FieldError(path, value, "must be a number from 0 to 99999, or 0% to 100%")
    return text if text.endswith("%") else int(text)


def _is_none(amount: int | str | None) -> bool:
    return amount is None or amount == 0 or (isinstance(amount, str) and int(amount.removesuffix("%")) == 0)


def _flag(obj: Mapping[str, Any]) -> int | str:
    value = feature_flags.text(obj, FLAG) or "1"
    if not _FLAG_FORM.fullmatch(value):
        raise fields.FieldError(
            feature_flags.annotation(FLAG), value, "must be a number from 1 to 99999, or 1% to 100%"
        )
    return value if value.endswith("%") else int(value)
