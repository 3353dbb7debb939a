"""A task that runs at intervals, and at once after a change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

_DEBOUNCE_SECONDS: Final = 0.5
"""Changes within this time of each other cause one run."""


class PeriodicTask:
    """Calls a function that returns the seconds until its next call. `run` is one task of the event loop."""

    def __init__(self, function: Callable[[], Awaitable[float]]) -> None:
        self._function, self._woken = function, asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled, or until the function raises."""
        while True:
            # Before the call, which may already have read what changes while it is running.
            self._woken.clear()
            seconds = await self._function()
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`, which before Python 3.12 loses a cancellation that comes with the wake-up.
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
                await asyncio.sleep(_DEBOUNCE_SECONDS)
