from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from oneagent.operator.periodic import Chore

FOREVER = 3600.0


class Rounds:
    """Counts, and holds every round until it is let go on."""

    def __init__(self, seconds: float) -> None:
        self.begun = 0
        self.seconds = seconds
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self._changed = asyncio.Condition()

    async def __call__(self) -> float:
        async with self._changed:
            self.begun += 1
            self._changed.notify_all()
        await self.goes_on.wait()
        return self.seconds

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.begun >= number)


@contextlib.asynccontextmanager
async def _running(chore: Chore) -> AsyncIterator[None]:
    task = asyncio.create_task(chore.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_round_comes_when_the_last_one_has_said() -> None:
    async def story() -> None:
        rounds = Rounds(0.01)
        async with _running(Chore(rounds)):
            await rounds.reach(3)

    asyncio.run(story())


def test_a_change_brings_the_next_round_forward() -> None:
    async def story() -> None:
        rounds = Rounds(FOREVER)
        chore = Chore(rounds)
        async with _running(chore):
            await rounds.reach(1)
            await asyncio.sleep(0)
            chore.wake()
            await rounds.reach(2)

    asyncio.run(story())


def test_a_change_during_a_round_is_not_lost() -> None:
    async def story() -> None:
        rounds = Rounds(FOREVER)
        rounds.goes_on.clear()
        chore = Chore(rounds)
        async with _running(chore):
            await rounds.reach(1)
            chore.wake()
            rounds.goes_on.set()
            await rounds.reach(2)

    asyncio.run(story())
