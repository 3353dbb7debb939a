"""Events about pods and DynaKubes, written in the background: no admission waits for them or fails because of them.

An Event about a pod is written about the pod's controller. The pod has no UID yet and often no name, and its owner
looks at the controller when pods are not as expected. A pod without a controller is named itself, so that at least
`kubectl get events` shows it. The same Event is not written again for some minutes, by no replica.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from oneagent.common.kubernetes import event_writer, events, types
from oneagent.webhook.injection.inputs import Notice
from oneagent.webhook.metrics import Metrics

COMPONENT: Final = "oneagent-webhook"
_QUIET_SECONDS: Final = 300.0
_REMEMBERED: Final = 2000
_PAUSE_SECONDS: Final = 0.1
_LONGEST_NAME: Final = 253
_LONGEST_MESSAGE: Final = 1024


def subject_of_pod(pod: types.Object, namespace: str) -> events.Subject:
    """The pod's controller, or the pod itself if it has none."""
    metadata = pod.get("metadata") or {}
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            version, kind, name, uid = (str(owner.get(key, "")) for key in ("apiVersion", "kind", "name", "uid"))
            return events.Subject(version, kind, namespace, name, uid)
    name = metadata.get("name") or str(metadata.get("generateName") or "").rstrip("-")
    return events.Subject("v1", "Pod", namespace, name)


class Recorder:
    """For one event loop; `run` writes what was recorded."""

    def __init__(
        self,
        client: event_writer.Client,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        aggregator = events.Aggregator(
            COMPONENT, has_replicas=True, quiet_seconds=_QUIET_SECONDS, remembered=_REMEMBERED, clock=clock, now=now
        )

        def count(outcome: event_writer.Outcome) -> None:
            metrics.events.labels(outcome).inc()

        self._writer = event_writer.EventWriter(client, aggregator, count, pause_seconds=pause_seconds)
        self.run = self._writer.run

    def record(self, subject: events.Subject, notice: Notice, *, is_state: bool = False) -> None:
        """Queue an Event unless the same was written within the last five minutes; none about an impossible name.

        With `is_state` it is written at once, and replaces that of all replicas with the same subject and reason.
        """
        parts = (subject.api_version, subject.kind, subject.namespace, subject.name, subject.uid)
        if all(len(part) <= _LONGEST_NAME for part in parts):
            message = notice.message[:_LONGEST_MESSAGE]
            self._writer.add(events.Event(subject, notice.kind, notice.reason, message, is_state=is_state))
