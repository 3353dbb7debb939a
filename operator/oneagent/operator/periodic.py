"""What is done from time to time, and at once when something has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

_GATHER_SECONDS: Final = 0.5
"""What comes within this time of a change is looked at together with it."""


class Chore:
    """A round says in how many seconds it wants to be done again. `run` is one task; the rest is of its event loop."""

    def __init__(self, round: Callable[[], Awaitable[float]]) -> None:
        self._round, self._awake = round, asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    async def run(self) -> None:
        """Until cancelled, or until a round fails."""
        while True:
            # Before the round: it may already have passed by what changes while it goes on.
            self._awake.clear()
            seconds = await self._round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), seconds)
                await asyncio.sleep(_GATHER_SECONDS)
