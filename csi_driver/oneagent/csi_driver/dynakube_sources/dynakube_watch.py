"""List and watch of DynaKubes in a thread: a driver for `list_watch` that reports the whole set after each change.

`Api` makes the requests. The thread waits in them, so stopping it in the middle of a stream is the `Api`'s part.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import msgspec

from oneagent.common import backoff, dynakube, identifiers, logs
from oneagent.common.kubernetes import errors, list_watch
from oneagent.csi_driver import dynakube_sources

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 250


class Api(Protocol):
    """Both raise `ApiError`."""

    def get(self, request: list_watch.ListRequest) -> bytes: ...

    def stream(self, request: list_watch.WatchRequest) -> AbstractContextManager[Iterator[bytes]]: ...


class DynaKubeWatch:
    """Belongs to one thread, except `silent_seconds`."""

    def __init__(
        self,
        api: Api,
        *,
        page_size: int = PAGE_SIZE,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._api, self._wait = api, wait
        collection = list_watch.Collection("dynakubes", page_size=page_size, periods=periods)
        self._state = list_watch.ListWatch(collection, _read, retry=retry, clock=clock)
        self._reported: dynakube_sources.Snapshot | None = None

    def silent_seconds(self) -> float:
        return self._state.silent_seconds

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        while not stop.is_set():
            error: errors.ApiError | None = None
            try:
                if self._make_request(changed, stop):
                    continue
            except errors.ApiError as failure:
                error = failure
            if not stop.is_set():
                self._wait(stop, self._state.end_attempt(error))

    def _make_request(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> bool:
        """Make the next request; true if another one follows at once."""
        request = self._state.next_request()
        if isinstance(request, list_watch.ListRequest):
            if self._state.add_page(self._api.get(request)) is not None:
                self._report(changed)
            return True
        with self._api.stream(request) as stream:
            self._state.open()
            for chunk in stream:
                for _ in self._state.add_chunk(chunk):
                    if stop.is_set():
                        return False
                    self._report(changed)
        return False

    def _report(self, changed: Callable[[dynakube_sources.Snapshot], None]) -> None:
        found = {key.rpartition("/")[2]: kube for key, kube in self._state.objects.items()}
        usable = {identifiers.DynaKubeName(k): v for k, v in found.items() if not isinstance(v, str)}
        invalid = {k: v for k, v in found.items() if isinstance(v, str)}
        snapshot = dynakube_sources.Snapshot(usable, invalid)
        if snapshot != self._reported:
            for name, error in snapshot.newly_invalid(self._reported):
                log.error("DynaKube not usable", extra=logs.fields(dynakube=name, error=error))
            self._reported = snapshot
            changed(snapshot)


def _read(content: msgspec.Raw) -> dynakube.DynaKube | str:
    """A DynaKube, or the reason why it cannot be used."""
    try:
        return dynakube.from_object(errors.decode(content, dict[str, Any]))
    except dynakube.DynaKubeError as error:
        return str(error)
