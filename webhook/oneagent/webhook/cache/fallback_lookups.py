"""Reads of single objects that a watch has not delivered yet, during an admission.

Concurrent reads of one object share one request: 300 pods of a new ReplicaSet cost one. A cancelled admission does
not cancel the request for the others. Results are cached for a few seconds, longer than a watch is ever behind;
failures for one second.
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
"""Longest wait of an admission for one object."""

_HIT_SECONDS: Final = 5.0
_MISS_SECONDS: Final = 1.0
_MAX_CACHED: Final = 2000

_T = TypeVar("_T")


class FallbackLookups(Generic[_T]):
    """For one kind of object; `fetch` takes a key, lasts `WAIT_SECONDS` at most and raises `ApiError`."""

    def __init__(self, fetch: Callable[[str], Awaitable[_T]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._pending: dict[str, asyncio.Task[_T | None]] = {}
        self._cached: OrderedDict[str, tuple[float, _T | None]] = OrderedDict()
        """Expiry and result"""

    async def get(self, key: str) -> _T | None:
        """Return None if the object does not exist, or was not read in time."""
        until, result = self._cached.get(key, (0.0, None))
        if self._clock() < until:
            return result
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._fetch_once(key))
        return await asyncio.shield(task)

    async def _fetch_once(self, key: str) -> _T | None:
        try:
            result = await self._fetch(key)
        except ApiError as error:
            log.info("object lookup failed", extra=logs.fields(object=key, reason=error))
            result = None
        finally:
            del self._pending[key]
        lifetime = _MISS_SECONDS if result is None else _HIT_SECONDS
        self._cached[key] = self._clock() + lifetime, result
        self._cached.move_to_end(key)
        if len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)
        return result
