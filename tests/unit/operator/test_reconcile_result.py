"""The condition `Ready` and the phase follow from all other conditions."""

from __future__ import annotations

import pytest

from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_result import ReconcileResult

GOOD = reconcile_result.ok("Fine", "all is well")
BAD = reconcile_result.failed("Broken", "it is broken")
OPEN = reconcile_result.pending("Waiting", "it waits")


@pytest.mark.parametrize(
    ("results", "expected", "phase"),
    [
        ({"A": GOOD}, ("True", "Reconciled", "everything is as specified"), "Running"),
        ({}, ("True", "Reconciled", "everything is as specified"), "Running"),
        ({"A": GOOD, "B": OPEN}, ("False", "Progressing", "B: it waits"), "Deploying"),
        ({"A": OPEN, "B": BAD, "C": GOOD}, ("False", "Failing", "B: it is broken"), "Error"),
        ({"B": BAD, "A": BAD}, ("False", "Failing", "A: it is broken; B: it is broken"), "Error"),
    ],
)
def test_failures_come_before_what_is_pending(
    results: dict[str, ReconcileResult], expected: tuple[str, str, str], phase: str
) -> None:
    summary = reconcile_result.summarize(results)
    assert (summary.status, summary.reason, summary.message) == expected
    assert reconcile_result.phase(summary) == phase


def test_a_result_has_its_status_requeue_and_fields() -> None:
    assert ReconcileResult("True", "Fine", "all is well") == GOOD
    assert reconcile_result.failed("R", "m", 5.0, oneAgent={"a": 1}) == ReconcileResult(
        "False", "R", "m", 5.0, {"oneAgent": {"a": 1}}
    )
    assert reconcile_result.pending("R", "m", 5.0, codeModules={"a": 1}) == ReconcileResult(
        "Unknown", "R", "m", 5.0, {"codeModules": {"a": 1}}
    )
