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


def summarize(results: Mapping[str, ReconcileResult]) -> ReconcileResult:
    """Return the result of the condition `Ready`: failures come before what is pending."""
    for status, reason in (("False", "Failing"), ("Unknown", "Progressing")):
        unmet = {kind: result for kind, result in sorted(results.items()) if result.status == status}
        if unmet:
            message = "; ".join(f"{kind}: {result.message}" for kind, result in unmet.items())
            return ReconcileResult("False", reason, message)
    return ReconcileResult("True", "Reconciled", "everything is as specified")


def phase(summary: ReconcileResult) -> str:
    """Return `status.phase` for readers that know no conditions."""
    return {"Reconciled": "Running", "Progressing": "Deploying"}.get(summary.reason, "Error")
