"""A queue of Events and the task that writes them, for components on asyncio.

Adding an Event neither waits nor fails. The writer pauses between two, and Events that do not fit into its queue are
dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal, Protocol

from oneagent.common import logs
from oneagent.common.kubernetes import errors, events, types

log = logging.getLogger(__name__)

Outcome = Literal["written", "failed", "dropped"]

_QUEUED: Final = 200
_PAUSE_SECONDS: Final = 0.1
_SEND_SECONDS: Final = 5.0


class Client(Protocol):
    async def post(self, path: str, body: types.Object) -> object:
        """Create an object; `ConflictError` if it exists, and any other error is an exception."""
        ...

    async def apply_path(self, path: str, body: types.Object) -> object:
        """Create or change an object by server-side apply; any error is an exception."""
        ...


class EventWriter:
    """For one event loop; the aggregator must not patch."""

    def __init__(
        self,
        client: Client,
        aggregator: events.Aggregator,
        count: Callable[[Outcome], None] = lambda _outcome: None,
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._client, self._aggregator, self._count, self._pause = client, aggregator, count, pause_seconds
        self._queue: asyncio.Queue[events.Write] = asyncio.Queue(_QUEUED)

    def add(self, event: events.Event) -> None:
        """Queue an Event unless it was written lately; never an error."""
        if (write := self._aggregator.add(event)) is None:
            return
        try:
            self._queue.put_nowait(write)
        except asyncio.QueueFull:
            self._aggregator.discard(write)
            self._count("dropped")

    async def run(self) -> None:
        """Write queued Events until cancelled."""
        while True:
            await self._send(await self._queue.get())
            await asyncio.sleep(self._pause)

    async def _send(self, write: events.Write) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                send = self._client.apply_path if write.verb == "apply" else self._client.post
                await send(write.path, write.body)
        except errors.ConflictError:
            self._count("written")  # By another replica.
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one may be written
            self._aggregator.discard(write)
            self._count("failed")
            details = logs.fields(object=write.event.subject.name, reason=write.event.reason, error=repr(error))
            log.warning("event write failed", extra=details)
        else:
            self._count("written")
