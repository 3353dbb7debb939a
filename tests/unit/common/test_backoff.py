"""Pauses: they grow, they heed what a server asks for, and no two clients have the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks import herd
from oneagent.common import backoff


@given(st.integers(1, 1000), st.floats(0.1, 10), st.floats(10, 1000))
def test_a_pause_grows_with_each_failure_up_to_the_longest(failures: int, first: float, longest: float) -> None:
    most = min(longest, first * 2.0 ** min(failures - 1, 16))
    assert most / 2 <= backoff.growing(failures, first, longest) <= most


@given(st.floats(0, 100), st.floats(0, 1000) | st.none())
def test_a_pause_is_never_shorter_than_a_server_asks_for(pause: float, retry_after: float | None) -> None:
    assert max(pause, retry_after or 0) <= backoff.heeding(pause, retry_after) <= max(pause, (retry_after or 0) * 1.5)


def test_those_that_are_told_the_same_time_do_not_come_back_together() -> None:
    assert len({round(backoff.heeding(1.0, 10.0), 3) for _ in range(100)}) > 50


def test_a_thousand_nodes_that_begin_within_a_minute_ask_a_registry_a_tenth_as_often_a_second() -> None:
    together, spread = (herd.simulate(1000, seconds, mirror=False) for seconds in (0.0, 60.0))
    assert spread.registry_peak < together.registry_peak / 10
    assert spread.most_seconds < together.most_seconds * 1.1
