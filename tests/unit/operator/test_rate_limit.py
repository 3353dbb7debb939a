"""Polls of one tenant are spread over the minute that its limit counts."""

from __future__ import annotations

from oneagent.operator.rate_limit import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_nine_polls_fit_into_a_minute_and_the_tenth_waits_for_the_first_to_leave_it() -> None:
    clock = Clock()
    limit = RateLimiter(clock, clock.sleep)
    for _ in range(9):
        limit.wait("a")
        clock.now += 1
    assert not clock.slept
    limit.wait("a")
    assert clock.slept == [51.0]
    # The minute of the second poll is over a second later.
    limit.wait("a")
    assert clock.slept == [51.0, 1.0]


def test_another_tenant_has_a_minute_of_its_own() -> None:
    clock = Clock()
    limit = RateLimiter(clock, clock.sleep)
    for _ in range(9):
        limit.wait("a")
        limit.wait("b")
    assert not clock.slept
