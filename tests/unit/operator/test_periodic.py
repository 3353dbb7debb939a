from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from oneagent.operator.periodic import PeriodicTask

FOREVER = 3600.0


class Calls:
    """Counts calls, and holds each until it may finish."""

    def __init__(self, seconds: float) -> None:
        self.calls = 0
        self.seconds = seconds
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self._changed = asyncio.Condition()

    async def __call__(self) -> float:
        async with self._changed:
            self.calls += 1
            self._changed.notify_all()
        await self.may_finish.wait()
        return self.seconds

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.calls >= number)


@contextlib.asynccontextmanager
async def _running(periodic: PeriodicTask) -> AsyncIterator[None]:
    task = asyncio.create_task(periodic.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_call_follows_after_the_seconds_that_the_last_one_returned() -> None:
    async def story() -> None:
        calls = Calls(0.01)
        async with _running(PeriodicTask(calls)):
            await calls.reach(3)

    asyncio.run(story())


def test_a_change_brings_the_next_call_forward() -> None:
    async def story() -> None:
        calls = Calls(FOREVER)
        task = PeriodicTask(calls)
        async with _running(task):
            await calls.reach(1)
            await asyncio.sleep(0)
            task.wake()
            await calls.reach(2)

    asyncio.run(story())


def test_a_change_during_a_call_is_not_lost() -> None:
    async def story() -> None:
        calls = Calls(FOREVER)
        calls.may_finish.clear()
        task = PeriodicTask(calls)
        async with _running(task):
            await calls.reach(1)
            task.wake()
            calls.may_finish.set()
            await calls.reach(2)

    asyncio.run(story())
