"""Writes a DynaKube's status when it changes, and an Event for each condition that fails or recovers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.agents import objects
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import conditions, types
from oneagent.common.kubernetes.errors import NotFoundError
from oneagent.operator import api, reconcile_result, rollout_events
from oneagent.operator.cache import Cache
from oneagent.operator.events import RecordEvent
from oneagent.operator.reconcile_result import ReconcileResult

_WITHOUT_EVENTS: Final = (conditions.READY, rollout_events.CONDITION)
"""Of the rollout `rollout_events` records the Events, with the number of nodes; of `Ready` its parts have theirs."""
_SECTIONS: Final = ("oneAgent", "codeModules")


class StatusWriter:
    def __init__(
        self,
        server: api.Api,
        resource: api.Resource,
        namespace: str,
        cache: Cache,
        record_event: RecordEvent,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._resource, self._namespace = server, resource, namespace
        self._cache, self._record_event, self._clock = cache, record_event, clock

    async def write(self, obj: api.Object, results: Mapping[str, ReconcileResult], mode: Mode | None = None) -> None:
        """Apply the status if it differs; without a mode, sections of the status stay as they are."""
        before = obj.get("status") or {}
        now = self._clock()
        summary = reconcile_result.summarize(results)
        everything = {**results, conditions.READY: summary}
        generation = int(obj["metadata"].get("generation", 0))
        status: dict[str, Any] = _merge_sections(before, results, mode)
        status["conditions"] = conditions.merge(before.get("conditions") or (), everything, generation, now)
        status["phase"] = reconcile_result.phase(summary)
        if mode and obj.get("kind") != identifiers.INJECTION_KIND:
            status["mode"] = mode.value
        if self._cache.cluster_id:
            status["kubeSystemUUID"] = self._cache.cluster_id
        if _status_unchanged(before, status):
            return
        self._emit_events(obj, before.get("conditions") or (), everything)
        status["updatedTimestamp"] = types.timestamp(now)
        metadata = {"name": objects.name_of(obj["metadata"]["name"]), "namespace": self._namespace}
        with contextlib.suppress(NotFoundError):
            await self._api.apply(self._resource, {"metadata": metadata, "status": status}, subresource="status")

    def _emit_events(
        self, obj: api.Object, before: Sequence[Mapping[str, Any]], results: Mapping[str, ReconcileResult]
    ) -> None:
        known = {str(condition.get("type")): condition.get("status") for condition in before}
        for condition, result in results.items():
            if condition in _WITHOUT_EVENTS or known.get(condition) == result.status:
                continue
            if result.status == "False":
                self._record_event(obj, "Warning", result.reason, f"{condition}: {result.message}")
            elif result.status == "True" and known.get(condition) == "False":
                self._record_event(obj, "Normal", result.reason, f"{condition}: {result.message}")


def _merge_sections(
    before: Mapping[str, Any], results: Mapping[str, ReconcileResult], mode: Mode | None
) -> dict[str, Any]:
    """Return the sections of the status: the results' values over the former ones, which outlive an outage.

    A value of None removes its field; so does a mode that has no use for it.
    """
    sections = {name: dict(before.get(name) or {}) for name in _SECTIONS}
    for result in results.values():
        for name, values in result.fields.items():
            sections[name] = {**sections.get(name, {}), **values}
    if mode and not mode.injects:
        sections.pop("codeModules", None)
    if mode and not mode.runs_on_hosts:
        connection = sections["oneAgent"].get("connectionInfoStatus")
        sections["oneAgent"] = {"connectionInfoStatus": connection} if connection else {}
    cleaned = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }
    return {name: section for name, section in cleaned.items() if section}


def _status_unchanged(before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Compare the operator's own part; another operator's fields and conditions may be beside it."""
    types = {condition["type"] for condition in status["conditions"]}
    own = [condition for condition in before.get("conditions") or () if condition.get("type") in types]
    if sorted(own, key=lambda condition: str(condition["type"])) != status["conditions"]:
        return False
    if any(before.get(name) for name in set(_SECTIONS) - status.keys()):
        return False
    return all(before.get(key) == value for key, value in status.items() if key != "conditions")
