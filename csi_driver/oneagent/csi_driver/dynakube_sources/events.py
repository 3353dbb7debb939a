"""Events: what `kubectl describe` shows of a pod or a DynaKube.

An Event that is said again is counted (`count`, by a patch) instead of said again, and at most once a minute:
a thousand nodes that retry a download must not write a thousand objects a second. What is left out in between
is in the next count. All of it is best effort: no error leaves this module, and none is retried.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from oneagent.common import dynakube, identifiers, logs
from oneagent.csi_driver import dynakube_sources

log = logging.getLogger(__name__)

_REMEMBERED: Final = 256
_QUIET_SECONDS: Final = 60.0
_LONGEST_MESSAGE: Final = 1024

Send = Callable[[str, str, Mapping[str, Any]], None]
"""Namespace, the Event's name (empty: create it), body; raises `SourceError`."""


@dataclasses.dataclass(slots=True)
class _Said:
    name: str
    count: int
    sent_at: float


class Events:
    def __init__(self, send: Send, *, component: str, node: str, clock: Callable[[], float]) -> None:
        self._send = send
        self._component = component
        self._node = node
        self._clock = clock
        self._lock = threading.Lock()
        self._said: collections.OrderedDict[tuple[str, ...], _Said] = collections.OrderedDict()

    def say(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
    ) -> None:
        involved = _involved(about)
        key = (*involved.values(), kind, reason, message)
        with self._lock:
            try:
                self._say(key, involved, kind, reason, message)
            except dynakube_sources.SourceError as error:
                log.warning("event not sent", extra=logs.facts(about=about.name, reason=reason, error=error))

    def _say(
        self, key: tuple[str, ...], involved: dict[str, str], kind: dynakube_sources.Kind, reason: str, message: str
    ) -> None:
        now = self._clock()
        if said := self._said.get(key):
            self._said.move_to_end(key)
            said.count += 1
            if now - said.sent_at < _QUIET_SECONDS:
                return
            said.sent_at = now
            try:
                repeat = {"count": said.count, "lastTimestamp": _timestamp()}
                self._send(involved["namespace"], said.name, repeat)
                return
            except dynakube_sources.NotFoundError:
                del self._said[key]  # The API server forgets an Event after an hour.
        name = f"{involved['name'][:230]}.{secrets.token_hex(8)}"
        self._said[key] = _Said(name, 1, now)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        try:
            self._send(involved["namespace"], "", self._event(name, involved, kind, reason, message))
        except dynakube_sources.SourceError:
            del self._said[key]
            raise

    def _event(
        self, name: str, involved: dict[str, str], kind: dynakube_sources.Kind, reason: str, message: str
    ) -> dict[str, Any]:
        now = _timestamp()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": involved["namespace"]},
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message[:_LONGEST_MESSAGE],
            "source": {"component": self._component} | ({"host": self._node} if self._node else {}),
            "reportingComponent": self._component,
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _involved(about: dynakube.DynaKube | dynakube_sources.PodReference) -> dict[str, str]:
    if isinstance(about, dynakube_sources.PodReference):
        kind = {"apiVersion": "v1", "kind": "Pod"}
    else:
        # Any version names the same object; events are found by its uid.
        kind = {"apiVersion": f"{identifiers.API_GROUP}/v1beta6", "kind": "DynaKube"}
    return {**kind, "namespace": about.namespace, "name": about.name, "uid": about.uid}


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
