"""Conditions by the conventions of the Kubernetes API: a transition time that moves with the status only."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any, Final

from oneagent.operator.reconcile_result import ReconcileResult

READY: Final = "Ready"
_MAX_MESSAGE_LENGTH: Final = 4000


def stamp(now: float) -> str:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(
    before: Iterable[Mapping[str, Any]], verdicts: Mapping[str, ReconcileResult], generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions that are now, by their types' order; what no concern speaks of any more is gone."""
    known = {str(condition.get("type")): condition for condition in before}
    found = []
    for kind, verdict in sorted(verdicts.items()):
        old = known.get(kind, {})
        same = old.get("status") == verdict.status and old.get("lastTransitionTime")
        found.append(
            {
                "type": kind,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": verdict.message[:_MAX_MESSAGE_LENGTH],
                "lastTransitionTime": old["lastTransitionTime"] if same else stamp(now),
                "observedGeneration": generation,
            }
        )
    return found


def ready(verdicts: Mapping[str, ReconcileResult]) -> ReconcileResult:
    """The one that sums up: what is wrong comes before what is still awaited."""
    for status, reason in (("False", "Failing"), ("Unknown", "Progressing")):
        concerned = {kind: verdict for kind, verdict in sorted(verdicts.items()) if verdict.status == status}
        if concerned:
            message = "; ".join(f"{kind}: {verdict.message}" for kind, verdict in concerned.items())
            return ReconcileResult("False", reason, message)
    return ReconcileResult("True", "Reconciled", "everything is as this DynaKube wants it")


def phase(summary: ReconcileResult) -> str:
    """`status.phase` of the older readers."""
    return {"Reconciled": "Running", "Progressing": "Deploying"}.get(summary.reason, "Error")
