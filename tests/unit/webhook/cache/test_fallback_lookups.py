"""Lookups of single objects: shared while they run, cached for a few seconds."""

from __future__ import annotations

import asyncio

from oneagent.common.kubernetes import errors
from oneagent.webhook.cache.fallback_lookups import FallbackLookups


class Server:
    """Counts its reads; `answer` of None stands for a server that does not answer."""

    def __init__(self, answer: str | None = "object") -> None:
        self.answer, self.reads, self.now = answer, 0, 100.0
        self.lookups = FallbackLookups(self.fetch, clock=lambda: self.now)

    async def fetch(self, key: str) -> str:
        self.reads += 1
        await asyncio.sleep(0)
        if self.answer is None:
            raise errors.UnavailableError(f"{key}: no answer")
        return self.answer


def reads_after(seconds: float, answer: str | None) -> int:
    async def ask() -> int:
        server = Server(answer)
        assert await server.lookups.get("a") == answer
        server.now += seconds
        assert await server.lookups.get("a") == answer
        return server.reads

    return asyncio.run(ask())


def test_an_object_is_read_again_after_five_seconds_and_not_before() -> None:
    assert [reads_after(seconds, "object") for seconds in (0.0, 4.99, 5.0)] == [1, 1, 2]


def test_a_failure_is_remembered_for_a_second() -> None:
    assert [reads_after(seconds, None) for seconds in (0.0, 0.99, 1.0)] == [1, 1, 2]


def test_reads_of_one_object_at_once_share_a_request() -> None:
    async def ask() -> int:
        server = Server()
        assert await asyncio.gather(*(server.lookups.get("a") for _ in range(300))) == ["object"] * 300
        return server.reads

    assert asyncio.run(ask()) == 1
