"""Single objects that a watch has not brought yet, asked for in the middle of an admission.

Whoever asks for the same thing at the same time shares one request: 300 pods of a new ReplicaSet cost one. The
request outlives those who wait for it, so that one that hangs up takes nothing from the others. Answers are kept
for a few seconds, which is more than a watch is ever behind; that there was none for one second only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from oneagent.common import logs
from oneagent.common.kubernetes.errors import ApiError

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 0.5
"""The most that an admission waits for one object."""

_FOUND_SECONDS: Final = 5.0
_MISSED_SECONDS: Final = 1.0
_REMEMBERED: Final = 2000

_T = TypeVar("_T")


class Lookups(Generic[_T]):
    """For one kind of object; `fetch` is given a key, takes no longer than `WAIT_SECONDS` and raises `ApiError`."""

    def __init__(self, fetch: Callable[[str], Awaitable[_T]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._asked: dict[str, asyncio.Task[_T | None]] = {}
        self._known: OrderedDict[str, tuple[float, _T | None]] = OrderedDict()
        """Until when, and what"""

    async def get(self, key: str) -> _T | None:
        """None if it is not there, or not to be had in time."""
        until, answer = self._known.get(key, (0.0, None))
        if self._clock() < until:
            return answer
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._ask(key))
        return await asyncio.shield(task)

    async def _ask(self, key: str) -> _T | None:
        try:
            answer = await self._fetch(key)
        except ApiError as error:
            log.info("an object could not be looked up", extra=logs.facts(object=key, reason=error))
            answer = None
        finally:
            del self._asked[key]
        kept_for = _MISSED_SECONDS if answer is None else _FOUND_SECONDS
        self._known[key] = self._clock() + kept_for, answer
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return answer
