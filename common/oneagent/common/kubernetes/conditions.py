"""Conditions by the conventions of the Kubernetes API: the transition time changes with the status only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from oneagent.common.kubernetes.types import timestamp

READY: Final = "Ready"
_LONGEST_MESSAGE: Final = 4000


class Result(Protocol):
    """State of one condition."""

    @property
    def status(self) -> str:
        """`True`, `False` or `Unknown`"""
        ...

    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...


def merge(
    before: Iterable[Mapping[str, Any]], results: Mapping[str, Result], generation: int, now: float
) -> list[dict[str, Any]]:
    """Return the conditions of the results, sorted by type; former ones without a result are dropped."""
    known = {str(condition.get("type")): condition for condition in before}
    conditions = []
    for kind, result in sorted(results.items()):
        old = known.get(kind, {})
        is_same = old.get("status") == result.status and old.get("lastTransitionTime")
        conditions.append(
            {
                "type": kind,
                "status": result.status,
                "reason": result.reason,
                "message": result.message[:_LONGEST_MESSAGE],
                "lastTransitionTime": old["lastTransitionTime"] if is_same else timestamp(now),
                "observedGeneration": generation,
            }
        )
    return conditions
