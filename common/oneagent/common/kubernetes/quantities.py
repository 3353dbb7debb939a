"""Quantities of CPU, memory and disk as in Kubernetes, and faults of a container's resources.

Resources that the API server refuses must not get into a pod, and better not into a DynaKube: all pods of its
namespaces would be refused because of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

KINDS: Final = ("cpu", "memory", "ephemeral-storage")

_SECTIONS: Final = ("requests", "limits")
_FORM: Final = re.compile(
    r"\+?(?P<number>[0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})((?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<power>[+-]?[0-9]{1,2}))?"
)
_FACTORS: Final[Mapping[str, Decimal]] = {
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("num", -3)},
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def parse(value: object) -> Decimal | None:
    """None if it is no quantity, or negative."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    factor = _FACTORS.get(match["suffix"] or "", Decimal(1)) * Decimal(10) ** int(match["power"] or 0)
    return Decimal(match["number"]) * factor


def faults(resources: Mapping[str, object]) -> Iterator[str]:
    """Reasons why no container can have these resources, each with the remedy."""
    yield from (
        f"{name} is not allowed: only {' and '.join(_SECTIONS)} are" for name in resources if name not in _SECTIONS
    )
    amounts: dict[tuple[str, str], Decimal] = {}
    for section in _SECTIONS:
        found = resources.get(section)
        if found is not None and not isinstance(found, Mapping):
            yield f"{section} must be a mapping of {', '.join(KINDS)} to quantities"
            continue
        for kind, value in (found or {}).items():
            amount = parse(value)
            if kind not in KINDS:
                yield f"{section} has {str(kind)[:80]!r}: only {', '.join(KINDS)} are allowed"
            elif amount is None:
                yield f"{section}.{kind} is {str(value)[:80]!r}: must be a quantity such as 100m or 64Mi"
            else:
                amounts[section, kind] = amount
    for kind in KINDS:
        request, limit = (amounts.get((section, kind)) for section in _SECTIONS)
        if request is not None and limit is not None and request > limit:
            yield f"requests.{kind} is more than limits.{kind}"
