"""Pauses between retries, with jitter.

All nodes of a cluster see a new version in the same second, and lose an API server in the same second. A busy server
sends all of them the same `Retry-After`. The random part of each pause keeps them from returning together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

_LONGEST_RETRY_AFTER: Final = 120.0
_LONGEST_PAUSE: Final = 3600.0
"""A number that a server sends must not keep a node away for days."""
_MOST_DOUBLINGS: Final = 16


def exponential(failures: int, first: float, longest: float) -> float:
    """Seconds after so many failures in a row: doubled by each, then shortened by up to a half."""
    return _doubled(failures, first, longest) * random.uniform(0.5, 1.0)


def at_least(pause: float, retry_after: float | None) -> float:
    """The pause, or the server's `Retry-After` and up to half of it more if that is longer, but at most an hour."""
    return max(pause, min((retry_after or 0.0) * random.uniform(1.0, 1.5), _LONGEST_PAUSE))


def jittered(seconds: float) -> float:
    """An interval, changed by up to a fifth."""
    return seconds * random.uniform(0.8, 1.2)


class Backoff:
    """Exponential back-off of one client, with full jitter.

    For connections that a whole fleet loses at once: each client draws from zero to the limit, which spreads the
    first second best.
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random) -> None:
        self._first, self._longest, self._draw = first, longest, draw
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next(self, retry_after: float = 0.0) -> float:
        """Count a failure and return the seconds to wait, on top of the server's `Retry-After` up to two minutes."""
        self.failures += 1
        limit = _doubled(self.failures, self._first, self._longest)
        return min(max(retry_after, 0.0), _LONGEST_RETRY_AFTER) + self._draw() * limit


def _doubled(failures: int, first: float, longest: float) -> float:
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS))
