"""List and watch over asyncio: a driver for `list_watch`, on any client that can read and stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import msgspec

from oneagent.common import backoff
from oneagent.common.kubernetes import list_watch

_T = TypeVar("_T")


class Client(Protocol):
    """The two requests that a watch needs; both raise `ApiError`."""

    async def read(self, path: str, parameters: Mapping[str, str] | None = None, *, accept: str) -> bytes: ...

    def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, silence_seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A response as it comes; `SilentError` if nothing comes for so long."""
        ...


class Watch(Generic[_T]):
    """Objects of one collection, held in memory; see `list_watch.ListWatch` for `read` and the keys of `objects`."""

    def __init__(
        self,
        client: Client,
        collection: list_watch.Collection,
        read: Callable[[msgspec.Raw], _T],
        changed: Callable[[list_watch.Changes[_T]], None] = lambda _changes: None,
        *,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is called after each list and after each event about an object."""
        self._client, self._changed = client, changed
        self._state = list_watch.ListWatch(collection, read, retry=retry, clock=clock)
        self._synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[str, _T]:
        return self._state.objects

    @property
    def version(self) -> str:
        return self._state.version

    @property
    def problem(self) -> str:
        """The error of the last attempt, or ''."""
        return self._state.problem

    @property
    def is_synced(self) -> bool:
        """The set was complete at least once."""
        return self._state.is_synced

    @property
    def silent_seconds(self) -> float:
        """Seconds without a response of the server; 0 before the first request."""
        return self._state.silent_seconds

    @property
    def silence(self) -> str:
        """The reason why the objects may be out of date, if the server is silent for too long; or ''."""
        return self._state.silence

    @property
    def resource(self) -> str:
        """The plural of the objects' kind."""
        return self._state.collection.path.rpartition("/")[2]

    async def wait_until_synced(self) -> None:
        await self._synced.wait()

    async def run(self) -> None:
        """Watch until cancelled; no error ends it."""
        while True:
            error: Exception | None = None
            try:
                if await self._make_request():
                    continue
            except Exception as failure:  # noqa: BLE001 - `end_attempt` logs it
                error = failure
            await asyncio.sleep(self._state.end_attempt(error))

    async def _make_request(self) -> bool:
        """Make the next request; true if another one follows at once."""
        state, path = self._state, self._state.collection.path
        request = state.next_request()
        if isinstance(request, list_watch.ListRequest):
            page = await self._client.read(path, request.query, accept=request.accept)
            if (changes := state.add_page(page)) is not None:
                self._changed(changes)
                self._synced.set()
            return True
        silence = request.silence_seconds
        async with self._client.stream(path, request.query, accept=request.accept, silence_seconds=silence) as stream:
            state.open()
            async for chunk in stream:
                for changes in state.add_chunk(chunk):
                    self._changed(changes)
        return False
