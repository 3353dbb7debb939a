"""Events about DynaKubes and nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from oneagent.common.agents import objects
from oneagent.common.kubernetes import event_writer, events, types

COMPONENT: Final = "oneagent-operator"

RecordEvent = Callable[[types.Object, events.Kind, str, str], None]
"""Records an Event: the object, `Normal` or `Warning`, reason, message."""


class Recorder:
    """For one event loop; `run` writes the recorded Events."""

    def __init__(self, client: event_writer.Client) -> None:
        self._writer = event_writer.EventWriter(client, events.Aggregator(COMPONENT))
        self.run = self._writer.run

    def record(self, obj: types.Object, kind: events.Kind, reason: str, message: str) -> None:
        """Queue an Event unless the same was written within the last minute."""
        self._writer.add(events.Event(objects.subject_of(obj), kind, reason, message))
