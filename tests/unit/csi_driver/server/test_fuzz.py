"""A short run of the CSI requests that `make fuzz` sends for long."""

from __future__ import annotations

from tests.fuzz import __main__ as fuzz


def test_any_request_is_answered_or_refused_by_an_error_of_the_drivers_own_within_its_bounds() -> None:
    tally = fuzz.batch("csi-request", 1, range(1_000))
    assert tally.failures == []
    assert {"", "INVALID_ARGUMENT", "UNAVAILABLE", "NOT_FOUND"} <= tally.results.keys()
