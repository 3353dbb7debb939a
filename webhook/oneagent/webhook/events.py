"""Events for people, written behind the admissions' back: none of them waits for it, and none fails by it.

What an admission has to say of a pod is said of the pod's controller: the pod has no UID yet and often no name,
while the controller is what its owner looks at when pods are not as they should be. A pod without a controller is
named as it is, so that at least `kubectl get events` tells. The same is not said again for some minutes, the
writer takes its time, and what does not fit into its queue is dropped and counted.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import logging
import secrets
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from oneagent.common import logs
from oneagent.webhook.injection.inputs import Notice, Object
from oneagent.webhook.metrics import Metrics

log = logging.getLogger(__name__)

COMPONENT: Final = "oneagent-webhook"
_QUEUED: Final = 200
_REMEMBERED: Final = 2000
_QUIET_SECONDS: Final = 300.0
_PAUSE_SECONDS: Final = 0.1
_SEND_SECONDS: Final = 5.0
_MAX_MESSAGE_LENGTH: Final = 1024


class Writer(Protocol):
    """Who has the connection to the API server."""

    async def post(self, path: str, body: Object) -> None:
        """Create an object; any error is an exception."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


def of_pod(pod: Object, namespace: str) -> Subject:
    """The pod's controller; the pod itself if it has none."""
    metadata = pod.get("metadata") or {}
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            version, kind, name, uid = (str(owner.get(key, "")) for key in ("apiVersion", "kind", "name", "uid"))
            return Subject(version, kind, namespace, name, uid)
    name = metadata.get("name") or str(metadata.get("generateName") or "").rstrip("-")
    return Subject("v1", "Pod", namespace, name)


def of(obj: Object) -> Subject:
    """An object that the API server has."""
    metadata = obj["metadata"]
    return Subject(obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"], metadata["uid"])


class Events:
    def __init__(
        self,
        writer: Writer,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._writer, self._metrics, self._clock, self._pause = writer, metrics, clock, pause_seconds
        self._queue: asyncio.Queue[tuple[Subject, Notice]] = asyncio.Queue(_QUEUED)
        self._said: collections.OrderedDict[tuple[Subject, Notice], float] = collections.OrderedDict()

    def say(self, about: Subject, notice: Notice) -> None:
        """At once, and never an error."""
        said, now = (about, notice), self._clock()
        if now - self._said.get(said, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return
        try:
            self._queue.put_nowait(said)
        except asyncio.QueueFull:
            self._metrics.events.labels("dropped").inc()
            return
        self._said[said] = now
        self._said.move_to_end(said)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)

    async def run(self) -> None:
        """Write what was said, until cancelled."""
        while True:
            about, notice = await self._queue.get()
            await self._write(about, notice)
            await asyncio.sleep(self._pause)

    async def _write(self, about: Subject, notice: Notice) -> None:
        # Events about what lies in no namespace are in this one, by convention.
        namespace = about.namespace or "default"
        path = f"/api/v1/namespaces/{urllib.parse.quote(namespace, safe='')}/events"
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._writer.post(path, _event(about, notice, namespace))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one may be written
            self._metrics.events.labels("failed").inc()
            log.warning("an Event was not written", extra=logs.facts(reason=notice.reason, error=repr(error)))
        else:
            self._metrics.events.labels("written").inc()


def _event(about: Subject, notice: Notice, namespace: str) -> dict[str, Any]:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name[:230]}.{secrets.token_hex(8)}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "type": notice.kind,
        "reason": notice.reason,
        "message": notice.message[:_MAX_MESSAGE_LENGTH],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
