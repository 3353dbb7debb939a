"""A short run of what `make fuzz` does for long with reviews, and that it reaches every answer."""

from __future__ import annotations

import random

import pytest

from oneagent.webhook.admission_review import BusyError, LateError
from tests.fuzz import admission_reviews


@pytest.mark.parametrize("part", range(4))
def test_any_review_is_refused_or_answered(part: int) -> None:
    results = {admission_reviews.judge(random.Random(f"unit/{part}/{number}")) for number in range(150)}
    assert {"", "ReviewError", "FieldError", "Invalid", "InvalidPod"} <= results
    assert not {error.__name__ for error in (LateError, BusyError)} & results


def test_a_case_that_takes_too_much_memory_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_reviews, "MIB", -1)
    with pytest.raises(AssertionError, match="too much memory"):
        admission_reviews.judge(random.Random(0))
