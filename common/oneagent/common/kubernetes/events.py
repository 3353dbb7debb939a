"""Events: lines that `kubectl describe` shows of an object.

A repeated Event is not written again within a quiet time: a thousand nodes that retry a download must not write a
thousand objects a second. After it a client that may patch Events raises the `count` of the first one, which includes
the repeats that were left out; any other client creates the Event again. All of it is best effort.

Replicas that see the same, such as two pods of one ReplicaSet, give an Event the same name within a quiet time: the API
server refuses the second one.

An Event about a state that holds until the next one is no repeat: its name is fixed, and each write replaces the last,
so that several replicas that see the same state leave one Event.

`Aggregator` decides what to write and does no I/O; the components send it, each on its own client.
"""

from __future__ import annotations

import collections
import hashlib
import secrets
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from oneagent.common.kubernetes import types

Kind = Literal["Normal", "Warning"]
Verb = Literal["create", "patch", "apply"]

_LONGEST_MESSAGE: Final = 1024
_LONGEST_NAME: Final = 230


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    subject: Subject
    kind: Kind
    reason: str
    message: str
    related: Subject | None = None
    """Another object that it concerns"""
    is_state: bool = False
    """It replaces the last Event about the subject with this reason."""


@dataclass(frozen=True, slots=True)
class Write:
    """One request: the creation of an Event, a merge patch of one, or its server-side apply."""

    event: Event
    namespace: str
    name: str
    body: Mapping[str, Any]
    verb: Verb = "create"

    @property
    def path(self) -> str:
        path = f"/api/v1/namespaces/{urllib.parse.quote(self.namespace, safe='')}/events"
        return f"{path}/{urllib.parse.quote(self.name, safe='')}" if self.verb != "create" else path


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at: float


class Aggregator:
    """Repeats of one component's Events. Not for several threads at a time."""

    def __init__(
        self,
        component: str,
        *,
        node: str = "",
        patch_namespace: str = "",
        has_replicas: bool = False,
        quiet_seconds: float = 60.0,
        remembered: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`patch_namespace` is where the component may patch Events; in others a late repeat is created again.

        `has_replicas`: other processes may write the same Events.
        """
        self._component, self._node, self._patch_namespace = component, node, patch_namespace
        self._quiet_seconds, self._remembered, self._clock, self._now = quiet_seconds, remembered, clock, now
        self._has_replicas = has_replicas
        self._written: collections.OrderedDict[Event, _Written] = collections.OrderedDict()

    def add(self, event: Event) -> Write | None:
        """Count an Event and return the request that it needs; None within the quiet time."""
        if event.is_state:
            name = f"{event.subject.name[:_LONGEST_NAME]}.{event.reason.lower()}"
            return Write(event, _namespace(event.subject), name, self._body(event, name), "apply")
        now = self._clock()
        written = self._written.get(event)
        if written is None:
            return self._create(event)
        self._written.move_to_end(event)
        written.count += 1
        if now - written.at < self._quiet_seconds:
            return None
        if _namespace(event.subject) != self._patch_namespace:
            return self._create(event)
        written.at = now
        body = {"count": written.count, "lastTimestamp": types.timestamp(time.time())}
        return Write(event, _namespace(event.subject), written.name, body, "patch")

    def recreate(self, write: Write) -> Write:
        """Return the creation that replaces a patch; the API server deletes an Event after an hour."""
        return self._create(write.event)

    def discard(self, write: Write) -> None:
        """Forget an Event whose creation failed, so that its next repeat is written."""
        if write.verb == "create":
            self._written.pop(write.event, None)

    def _create(self, event: Event) -> Write:
        name = f"{event.subject.name[:_LONGEST_NAME]}.{self._suffix(event)}"
        self._written[event] = _Written(name, 1, self._clock())
        self._written.move_to_end(event)
        while len(self._written) > self._remembered:
            self._written.popitem(last=False)
        return Write(event, _namespace(event.subject), name, self._body(event, name))

    def _suffix(self, event: Event) -> str:
        if not self._has_replicas:
            return secrets.token_hex(8)
        period = int(self._now() // self._quiet_seconds)
        return hashlib.sha256(repr((event, period)).encode()).hexdigest()[:16]

    def _body(self, event: Event, name: str) -> dict[str, Any]:
        now, subject = types.timestamp(time.time()), event.subject
        related = {} if event.related is None else {"related": _reference(event.related)}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": _namespace(subject)},
            "involvedObject": _reference(subject),
            **related,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:_LONGEST_MESSAGE],
            "source": {"component": self._component} | ({"host": self._node} if self._node else {}),
            "reportingComponent": self._component,
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def subject_of(obj: types.Object) -> Subject:
    """The subject for an object that the API server has."""
    metadata = obj["metadata"]
    namespace, uid = (str(metadata.get(field) or "") for field in ("namespace", "uid"))
    return Subject(obj["apiVersion"], obj["kind"], namespace, metadata["name"], uid)


def _reference(subject: Subject) -> dict[str, str]:
    return {
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
    }


def _namespace(subject: Subject) -> str:
    """Events about objects without a namespace are in `default`, by convention."""
    return subject.namespace or "default"
