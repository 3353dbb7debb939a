"""Result of a reconciler: a condition, the time of the next run, and fields of the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    status: ConditionStatus
    reason: str
    """CamelCase word for programs: a constant of the reconciler's module."""
    message: str
    """Sentence for users. For a problem: the field, the value and the remedy."""
    requeue_seconds: float | None = None
    """Longest time until the next run; None: only a change starts one."""
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values by section of the status; results of several reconcilers for one section are merged."""


def ok(reason: str, message: str, **fields: Mapping[str, Any]) -> ReconcileResult:
    return ReconcileResult("True", reason, message, fields=fields)


def failed(
    reason: str, message: str, requeue_seconds: float | None = None, **fields: Mapping[str, Any]
) -> ReconcileResult:
    return ReconcileResult("False", reason, message, requeue_seconds, fields)


def pending(
    reason: str, message: str, requeue_seconds: float | None = None, **fields: Mapping[str, Any]
) -> ReconcileResult:
    return ReconcileResult("Unknown", reason, message, requeue_seconds, fields)
