"""List and watch of DynaKubes in a thread: a driver for `list_watch` that reports the whole set after each change.

`Api` makes the requests. The thread waits in them, so stopping it in the middle of a stream is the `Api`'s part.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import msgspec

from oneagent.common import agents, backoff, dynakube, identifiers, logs
from oneagent.common.kubernetes import errors, list_watch
from oneagent.csi_driver import dynakube_sources

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 250
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0
"""An API server that restarts gets all nodes back within seconds: so many TLS handshakes are the most of the work."""


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
        name: str = "dynakubes",
        read: Callable[[Mapping[str, Any]], dynakube.DynaKube] = dynakube.from_object,
        name_prefix: str = "",
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """`read` makes a DynaKube of an object, and `name_prefix` its name of the object's; `name` is for logs."""
        self._api, self._wait, self._name_prefix = api, wait, name_prefix
        collection = list_watch.Collection(name, page_size=page_size, periods=periods)
        retry = retry or backoff.Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._state = list_watch.ListWatch(collection, functools.partial(_read, read), retry=retry, clock=clock)
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
        found = {self._name_prefix + key.rpartition("/")[2]: kube for key, kube in self._state.objects.items()}
        usable = {identifiers.DynaKubeName(k): v for k, v in found.items() if not isinstance(v, str)}
        invalid = {k: v for k, v in found.items() if isinstance(v, str)}
        snapshot = dynakube_sources.Snapshot(usable, invalid)
        if snapshot != self._reported:
            for name, error in snapshot.newly_invalid(self._reported):
                log.error("%s not usable", agents.kind_of_object(name), extra=logs.fields(dynakube=name, error=error))
            self._reported = snapshot
            changed(snapshot)


def _read(read: Callable[[Mapping[str, Any]], dynakube.DynaKube], content: msgspec.Raw) -> dynakube.DynaKube | str:
    """A DynaKube, or the reason why it cannot be used."""
    try:
        return read(errors.decode(content, dict[str, Any]))
    except dynakube.DynaKubeError as error:
        return str(error)
