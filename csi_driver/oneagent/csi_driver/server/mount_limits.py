"""When a pod has waited long enough for its agent.

The rule, exactly: with a limit of N, N calls fail and the next one succeeds with an empty view. With a timeout
T, the first call that comes T or later after the first failure succeeds with an empty view, and a call that is
waiting when T passes does so then. Whichever is first. A mount that worked resets both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Infinite ones are never used up."""

    attempts: float
    timeout_seconds: float

    def counted(self, attempts: int) -> str:
        """The number of an attempt, for people."""
        return f"attempt {attempts} of {self.attempts:g}" if math.isfinite(self.attempts) else f"attempt {attempts}"


@dataclass(frozen=True, slots=True)
class Failures:
    """How often a volume's mount has failed, and when first (seconds since the epoch, 0 for never)."""

    attempts: int = 0
    first_at: float = 0.0

    def one_more(self, now: float) -> Failures:
        return Failures(self.attempts + 1, self.first_at or now)


def exhausted(failures: Failures, limits: Limits, now: float) -> str:
    """Why the pod shall start with an empty view, or '' while it shall not."""
    if failures.attempts >= limits.attempts:
        return f"{failures.attempts} mount attempts failed (the limit is {limits.attempts})"
    if failures.first_at and now >= failures.first_at + limits.timeout_seconds:
        return f"mount attempts failed for {limits.timeout_seconds:g} s (the mount timeout)"
    return ""


def seconds_left(failures: Failures, limits: Limits, now: float) -> float:
    """How long a call may wait before the timeout makes its view an empty one."""
    if not failures.first_at:
        return float("inf")
    return failures.first_at + limits.timeout_seconds - now
