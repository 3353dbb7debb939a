"""Removes the startup taint from a node as soon as pods there get their agent.

The node's CSINode must list the driver, and the metrics of the driver's pod must show the desired versions in the
store: `readiness` has the rules. Reading metrics needs no further permission and writes nothing to the API server,
but the network must allow it.

No other field of a node is changed. After an update conflict the node is read again. Only times are kept between
runs, so a new operator only restarts its timeouts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp

from oneagent.common import logs
from oneagent.common.identifiers import DRIVER_NAME
from oneagent.common.kubernetes import events
from oneagent.common.kubernetes.errors import ApiError, ConflictError, NotFoundError
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.events import RecordEvent
from oneagent.operator.startup_taint import readiness
from oneagent.operator.startup_taint.readiness import Decision, NodeState, StoreContents
from oneagent.operator.startup_taint.taint import Taint

log = logging.getLogger(__name__)

METRICS_PORT: Final = "prov-metrics"

_REQUEUE_SECONDS: Final = 5.0
_NODES_PER_SECOND: Final = 20
"""Limit of checks, which keeps the load independent of the number of waiting nodes."""
_LIST_SECONDS: Final = 3600.0
"""Interval between lists of all nodes: the watch has the second of a change, so of two in one it may hide the last."""
_EVENT_REPEAT_SECONDS: Final = 3600.0
"""The API server deletes Events after an hour."""
_CONCURRENCY: Final = 16
_ATTEMPTS: Final = 5
_METRICS_TIMEOUT_SECONDS: Final = 5.0
_MAX_METRICS_BYTES: Final = 4 << 20


class Nodes(Protocol):
    """The part of `api.Api` that is used here."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    def list(self, resource: api.Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[api.Object]: ...
    async def merge(self, resource: api.Resource, name: str, patch: Mapping[str, Any]) -> api.Object: ...


@dataclass(slots=True)
class _TaintedNode:
    since: float
    podless_since: float
    reported: str = ""
    """Reason of the last Event."""
    reported_at: float = 0.0


class StartupTaintController:
    """For one taint. `reconcile` is called by one task, in the event loop's thread."""

    def __init__(
        self,
        server: Nodes,
        cache: Cache,
        taint: Taint,
        record_event: RecordEvent,
        *,
        timeout_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """After `timeout_seconds` an Event reports why a node still has the taint."""
        self._api, self._cache = server, cache
        self._taint, self._record_event, self._timeout, self._clock = taint, record_event, timeout_seconds, clock
        self._tainted: dict[str, _TaintedNode] = {}
        self._known: set[str] = set()
        self._list_at = float("-inf")
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def reconcile(self) -> float:
        """Check every node with the taint; return the seconds until the next run.

        A change of a Node, CSINode or driver's pod starts one earlier.
        """
        try:
            await self._update_tainted()
            if self._tainted:
                pods = self._driver_pods()
                desired = readiness.desired_contents(self._cache.dynakubes.values())
                async with asyncio.TaskGroup() as group:
                    for name in list(self._tainted):
                        group.create_task(self._reconcile_node(name, pods.get(name, []), desired))
        except ApiError as error:
            log.warning("startup taint reconcile failed", extra=logs.fields(reason=error))
            return _REQUEUE_SECONDS
        if not self._tainted:
            return max(self._list_at - self._clock(), _REQUEUE_SECONDS)
        return max(_REQUEUE_SECONDS, len(self._tainted) / _NODES_PER_SECOND)

    def on_node(self, name: str) -> None:
        """Check a node that was added, changed or deleted; a new one of the same name has the taint again."""
        self._known.discard(name)

    async def _update_tainted(self) -> None:
        """List all nodes at intervals; read new ones at once."""
        if self._clock() >= self._list_at:
            present = set[str]()
            async for node in self._api.list(api.NODES):
                present.add(node["metadata"]["name"])
                self._update(node["metadata"]["name"], node)
            self._known = present
            self._list_at = self._clock() + _LIST_SECONDS
        else:
            for name in self._cache.nodes.keys() - self._known:
                self._update(name, await self._api.find(api.NODES, name))
                self._known.add(name)
            # A deleted node may be added again with the same name.
            self._known &= self._cache.nodes.keys()
        for name in self._tainted.keys() - self._known:
            del self._tainted[name]

    def _update(self, name: str, node: Mapping[str, Any] | None) -> None:
        if node is None or not self._taint.is_on(node):
            self._tainted.pop(name, None)
        elif name not in self._tainted:
            self._tainted[name] = _TaintedNode(self._clock(), self._clock())

    def _driver_pods(self) -> dict[str, list[api.Object]]:
        pods: dict[str, list[api.Object]] = {}
        for pod in self._cache.driver_pods.values():
            for name in _nodes_of(pod):
                pods.setdefault(name, []).append(pod)
        return pods

    async def _reconcile_node(self, name: str, pods: list[api.Object], desired: readiness.DesiredContents) -> None:
        """Remove the taint or report the reason; errors of one node do not affect others."""
        async with self._slots:
            try:
                decision = readiness.decide(await self._node_state(name, pods), desired, self._timeout)
                if decision.remove:
                    await self._remove(name, decision)
                else:
                    await self._report_overdue(name, decision)
            except ApiError as error:
                log.warning("startup taint check of node failed", extra=logs.fields(node=name, reason=error))

    async def _node_state(self, name: str, pods: list[api.Object]) -> NodeState:
        waiting, now = self._tainted[name], self._clock()
        if pods:
            waiting.podless_since = now
            is_registered = _lists_driver(await self._api.find(api.CSI_NODES, name))
        else:
            is_registered = False
        store, problem = await _read_store(pods) if is_registered else (None, "")
        return NodeState(bool(pods), now - waiting.podless_since, is_registered, store, problem)

    async def _remove(self, name: str, decision: Decision) -> None:
        for _ in range(_ATTEMPTS):
            node = await self._read_tainted(name)
            if node is None:
                return
            try:
                await self._api.merge(api.NODES, name, self._taint.removal_patch(node))
            except ConflictError:
                continue
            except NotFoundError:
                pass
            else:
                log.info("startup taint removed", extra=logs.fields(node=name, reason=decision.reason))
                kind: events.Kind = "Normal" if decision.reason == readiness.STARTUP_TAINT_REMOVED else "Warning"
                self._emit_event(node, kind, decision)
            self._tainted.pop(name, None)
            return

    async def _report_overdue(self, name: str, decision: Decision) -> None:
        """Emit an Event after the timeout, again when the reason changes, and every hour."""
        waiting, now = self._tainted[name], self._clock()
        is_reported = waiting.reported == decision.reason and now - waiting.reported_at < _EVENT_REPEAT_SECONDS
        if now - waiting.since < self._timeout or is_reported:
            return
        if (node := await self._read_tainted(name)) is not None:
            waiting.reported, waiting.reported_at = decision.reason, now
            self._emit_event(node, "Warning", decision)

    def _emit_event(self, node: Mapping[str, Any], kind: events.Kind, decision: Decision) -> None:
        obj = {"apiVersion": api.NODES.api_version, "kind": api.NODES.kind, "metadata": node["metadata"]}
        self._record_event(obj, kind, decision.reason, f"startup taint {self._taint}: {decision.message}")

    async def _read_tainted(self, name: str) -> api.Object | None:
        """Read the node again; None if it no longer has the taint."""
        node = await self._api.find(api.NODES, name)
        self._update(name, node)
        return node if name in self._tainted else None


def _lists_driver(csi_node: Mapping[str, Any] | None) -> bool:
    drivers = ((csi_node or {}).get("spec") or {}).get("drivers") or ()
    return any(driver.get("name") == DRIVER_NAME for driver in drivers)


def _nodes_of(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield the node of a DaemonSet's pod; an unscheduled one names it by node affinity."""
    if "deletionTimestamp" in pod["metadata"]:
        return
    if name := pod["spec"].get("nodeName"):
        yield name
        return
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("operator") == "In":
                yield from field.get("values") or ()


async def _read_store(pods: list[api.Object]) -> tuple[StoreContents | None, str]:
    """Read the store's contents from a node's driver pod; else None and the reason."""
    problem = "its pod has no address yet"
    for pod in pods:
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            continue
        host = f"[{address}]" if ":" in address else address
        try:
            return readiness.read_metrics(await _fetch(f"http://{host}:{_port(pod)}/metrics")), ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problem = f"{address}: {type(error).__name__}: {error}"
    return None, problem


def _port(pod: Mapping[str, Any]) -> int:
    ports = (port for container in pod["spec"]["containers"] for port in container.get("ports") or ())
    return next((int(port["containerPort"]) for port in ports if port.get("name") == METRICS_PORT), 8090)


async def _fetch(url: str) -> str:
    content = bytearray()
    timeout = aiohttp.ClientTimeout(total=_METRICS_TIMEOUT_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        async for part in response.content.iter_chunked(1 << 16):
            content += part
            if len(content) > _MAX_METRICS_BYTES:
                raise ValueError(f"the response exceeds {_MAX_METRICS_BYTES} bytes")
    return content.decode()
