"""Things that run in the background of a test, and waiting for what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from oneagent.webhook import api
from tests.fakes import kube_api

FIRST_PAUSE = 0.02
PATIENCE = 20.0


class Runs(Protocol):
    async def run(self) -> None: ...


@asynccontextmanager
async def connected(kube: kube_api.KubeApi, folder: Path) -> AsyncIterator[api.Api]:
    found = api.connect(kube.kubeconfig(folder / "config"))
    try:
        yield found
    finally:
        await found.close()


@asynccontextmanager
async def running(what: Runs) -> AsyncIterator[None]:
    task = asyncio.create_task(what.run())
    try:
        yield
    finally:
        task.cancel()
        done, _ = await asyncio.wait([task])
        assert all(ended.cancelled() for ended in done), "it ended before it was told to"


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)
