"""The rate limit of polls: a tenant allows 50 requests a minute for the whole cluster."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Final

_MAX_REQUESTS_PER_MINUTE: Final = 45
_REQUESTS_PER_POLL: Final = 5


class RateLimiter:
    """Thread-safe. Counts the requests of each tenant in the last minute."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._sent: dict[str, collections.deque[float]] = collections.defaultdict(collections.deque)

    def wait(self, api_url: str) -> None:
        """Return when one more poll fits into the last minute."""
        while (seconds := self._reserve(api_url)) > 0:
            self._sleep(seconds)

    def _reserve(self, api_url: str) -> float:
        """Reserve a poll and return 0, or return the seconds until the next attempt."""
        with self._lock:
            now = self._clock()
            sent: collections.deque[float] = self._sent[api_url]
            while sent and sent[0] <= now - 60:
                sent.popleft()
            if len(sent) + _REQUESTS_PER_POLL > _MAX_REQUESTS_PER_MINUTE:
                seconds: float = sent[0] + 60 - now
                return seconds
            sent.extend([now] * _REQUESTS_PER_POLL)
            return 0.0
