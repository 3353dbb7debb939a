"""Pauses grow, are at least what a server asks for, and differ between clients."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks import herd
from oneagent.common import backoff
from oneagent.common.http import errors


@given(st.integers(1, 1000), st.floats(0.1, 10), st.floats(10, 1000))
def test_a_pause_grows_with_each_failure_up_to_the_longest(failures: int, first: float, longest: float) -> None:
    most = min(longest, first * 2.0 ** min(failures - 1, 16))
    assert most / 2 <= backoff.exponential(failures, first, longest) <= most


@given(st.floats(0, 100), st.floats(0, 1000) | st.none())
def test_a_pause_is_never_shorter_than_a_server_asks_for(pause: float, retry_after: float | None) -> None:
    assert max(pause, retry_after or 0) <= backoff.at_least(pause, retry_after) <= max(pause, (retry_after or 0) * 1.5)


def test_the_next_try_is_at_most_an_hour_away_whatever_a_server_asks_for() -> None:
    assert backoff.at_least(1.0, 999_999_999.0) == 3600
    for number in ("999999999", "3153600000", "9" * 20):
        assert errors.parse_retry_after(number) == 3600


def test_after_failures_it_waits_longer_and_as_long_as_the_server_asks() -> None:
    retry = backoff.Backoff(1.0, 30.0, draw=lambda: 1.0)
    assert [retry.next() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    retry.reset()
    assert retry.next(retry_after=10) == 11
    assert retry.next(retry_after=1e9) == 122


@given(st.floats(0, 1), st.integers(0, 3000))
def test_a_pause_is_drawn_from_nothing_to_the_limit(drawn: float, failures: int) -> None:
    retry = backoff.Backoff(0.5, 30.0, draw=lambda: drawn)
    retry.failures = failures
    assert 0 <= retry.next() <= 30.0


def test_clients_with_the_same_retry_after_do_not_return_together() -> None:
    assert len({round(backoff.at_least(1.0, 10.0), 3) for _ in range(100)}) > 50


def test_a_thousand_nodes_that_begin_within_a_minute_ask_a_registry_a_tenth_as_often_a_second() -> None:
    together, spread = (herd.simulate(1000, seconds, mirror=False) for seconds in (0.0, 60.0))
    assert spread.registry_peak < together.registry_peak / 10
    assert spread.p99_seconds < together.p99_seconds * 1.1


@given(st.floats(0, 10_000))
def test_an_interval_varies_by_a_fifth(seconds: float) -> None:
    assert 0.8 * seconds <= backoff.jittered(seconds) <= 1.2 * seconds
