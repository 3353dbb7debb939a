"""Takes the startup taint off a node as soon as pods there get their agent.

That is when kubelet knows the driver (the node's CSINode lists it) and what DynaKubes want is in the node's store,
by the metrics of the driver's pod there: `nodestock` has the rules. Asking the pod needs no right that anybody else
has to get, and writes nothing to the API server; it needs a way from here to the pod's metrics port.

Nothing but this one taint is touched. Who is faster than we are with a node is not overwritten: the node is read
again. What is kept between rounds are times, so a new operator begins its patience anew and nothing else.
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
from oneagent.common.kubernetes.errors import ApiError, ConflictError, NotFoundError
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.startup_taint import readiness
from oneagent.operator.startup_taint.readiness import Decision, NodeState, StoreContents
from oneagent.operator.startup_taint.taint import Taint

log = logging.getLogger(__name__)

DRIVER_LABELS: Final = "app.kubernetes.io/name=oneagent-csi,app.kubernetes.io/component=csi-driver"
METRICS_PORT: Final = "prov-metrics"

_LOOK_SECONDS: Final = 5.0
_NODES_A_SECOND: Final = 20
"""So many that wait are looked at, however many there are."""
_LIST_SECONDS: Final = 300.0
"""How often all nodes are listed: a taint that comes to a node later is seen then."""
_REPEAT_SECONDS: Final = 3600.0
"""The API server forgets Events after an hour."""
_AT_ONCE: Final = 16
_ATTEMPTS: Final = 5
_ASK_SECONDS: Final = 5.0
_LONGEST_ANSWER_BYTES: Final = 4 << 20

Say = Callable[[Mapping[str, Any], str, str, str], None]
"""An Event about an object: the object, `Normal` or `Warning`, reason, message."""


class Nodes(Protocol):
    """What this needs of `api.Api`."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    def list(self, resource: api.Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[api.Object]: ...
    async def merge(self, resource: api.Resource, name: str, patch: Mapping[str, Any]) -> api.Object: ...


@dataclass(slots=True)
class _Waiting:
    """A node with the taint."""

    since: float
    podless_since: float
    told: str = ""
    told_at: float = 0.0


class StartupTaintController:
    """For one taint. `round` is called by one task, in the event loop's thread."""

    def __init__(
        self,
        server: Nodes,
        namespace: str,
        observed: Cache,
        taint: Taint,
        say: Say,
        *,
        patience_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namespace` is the driver's. After `patience_seconds` an Event tells why a node still has the taint."""
        self._api, self._namespace, self._observed = server, namespace, observed
        self._taint, self._say, self._patience, self._clock = taint, say, patience_seconds, clock
        self._waiting: dict[str, _Waiting] = {}
        self._known: set[str] = set()
        self._list_at = float("-inf")
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def round(self) -> float:
        """Look at every node with the taint; in how many seconds to look again. Sooner if nodes or CSINodes change."""
        try:
            await self._find_tainted()
            if self._waiting:
                pods = await self._driver_pods()
                want = readiness.wanted(self._observed.dynakubes.values())
                async with asyncio.TaskGroup() as group:
                    for name in list(self._waiting):
                        group.create_task(self._care(name, pods.get(name, []), want))
        except ApiError as error:
            log.warning("nodes with the startup taint are not looked at for now", extra=logs.facts(reason=error))
            return _LOOK_SECONDS
        if not self._waiting:
            return max(self._list_at - self._clock(), _LOOK_SECONDS)
        return max(_LOOK_SECONDS, len(self._waiting) / _NODES_A_SECOND)

    def changed(self, name: str) -> None:
        """A node has come, gone or changed: one that was made anew by the same name has its taint again."""
        self._known.discard(name)

    async def _find_tainted(self) -> None:
        """All nodes from time to time, and at once those that have come since."""
        if self._clock() >= self._list_at:
            present = set[str]()
            async for node in self._api.list(api.NODES):
                present.add(node["metadata"]["name"])
                self._note(node["metadata"]["name"], node)
            self._known = present
            self._list_at = self._clock() + _LIST_SECONDS
        else:
            for name in self._observed.nodes.keys() - self._known:
                self._note(name, await self._api.find(api.NODES, name))
                self._known.add(name)
            # What has gone may come again by the same name.
            self._known &= self._observed.nodes.keys()
        for name in self._waiting.keys() - self._known:
            del self._waiting[name]

    def _note(self, name: str, node: Mapping[str, Any] | None) -> None:
        if node is None or not self._taint.is_on(node):
            self._waiting.pop(name, None)
        elif name not in self._waiting:
            self._waiting[name] = _Waiting(self._clock(), self._clock())

    async def _driver_pods(self) -> dict[str, list[api.Object]]:
        pods: dict[str, list[api.Object]] = {}
        async for pod in self._api.list(api.PODS, self._namespace, labels=DRIVER_LABELS):
            for name in _nodes_of(pod):
                pods.setdefault(name, []).append(pod)
        return pods

    async def _care(self, name: str, pods: list[api.Object], want: readiness.Wanted) -> None:
        """One node; its errors hold up no other."""
        async with self._slots:
            try:
                decision = readiness.decide(await self._look(name, pods), want, self._patience)
                if decision.remove:
                    await self._remove(name, decision)
                else:
                    await self._tell_late(name, decision)
            except ApiError as error:
                log.warning("a node keeps the startup taint", extra=logs.facts(node=name, reason=error))

    async def _look(self, name: str, pods: list[api.Object]) -> NodeState:
        waiting, now = self._waiting[name], self._clock()
        if pods:
            waiting.podless_since = now
            registered = _lists_driver(await self._api.find(api.CSI_NODES, name))
        else:
            registered = False
        stock, fault = await _stock(pods) if registered else (None, "")
        return NodeState(bool(pods), now - waiting.podless_since, registered, stock, fault)

    async def _remove(self, name: str, decision: Decision) -> None:
        for _ in range(_ATTEMPTS):
            node = await self._fresh(name)
            if node is None:
                return
            try:
                await self._api.merge(api.NODES, name, self._taint.removal(node))
            except ConflictError:
                continue
            except NotFoundError:
                pass
            else:
                log.info("startup taint removed", extra=logs.facts(node=name, reason=decision.reason))
                kind = "Normal" if decision.reason == readiness.STARTUP_TAINT_REMOVED else "Warning"
                self._tell(node, kind, decision)
            self._waiting.pop(name, None)
            return

    async def _tell_late(self, name: str, decision: Decision) -> None:
        """An Event when a node has waited for too long, when the reason is another than before, and every hour."""
        waiting, now = self._waiting[name], self._clock()
        known = waiting.told == decision.reason and now - waiting.told_at < _REPEAT_SECONDS
        if now - waiting.since < self._patience or known:
            return
        if (node := await self._fresh(name)) is not None:
            waiting.told, waiting.told_at = decision.reason, now
            self._tell(node, "Warning", decision)

    def _tell(self, node: Mapping[str, Any], kind: str, decision: Decision) -> None:
        about = {"apiVersion": api.NODES.api_version, "kind": api.NODES.kind, "metadata": node["metadata"]}
        self._say(about, kind, decision.reason, f"startup taint {self._taint}: {decision.message}")

    async def _fresh(self, name: str) -> api.Object | None:
        """The node as it is now; None if it does not have the taint any more."""
        node = await self._api.find(api.NODES, name)
        self._note(name, node)
        return node if name in self._waiting else None


def _lists_driver(csi_node: Mapping[str, Any] | None) -> bool:
    drivers = ((csi_node or {}).get("spec") or {}).get("drivers") or ()
    return any(driver.get("name") == DRIVER_NAME for driver in drivers)


def _nodes_of(pod: Mapping[str, Any]) -> Iterator[str]:
    """The node of a DaemonSet's pod; one that has no place there yet names it by an affinity to a field."""
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


async def _stock(pods: list[api.Object]) -> tuple[StoreContents | None, str]:
    """What the driver's pod on a node says of its store, or why it does not."""
    fault = "its pod does not run"
    for pod in pods:
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            continue
        host = f"[{address}]" if ":" in address else address
        try:
            return readiness.read(await _fetch(f"http://{host}:{_port(pod)}/metrics")), ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            fault = f"{address}: {type(error).__name__}: {error}"
    return None, fault


def _port(pod: Mapping[str, Any]) -> int:
    ports = (port for container in pod["spec"]["containers"] for port in container.get("ports") or ())
    return next((int(port["containerPort"]) for port in ports if port.get("name") == METRICS_PORT), 8090)


async def _fetch(url: str) -> str:
    content = bytearray()
    timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        async for part in response.content.iter_chunked(1 << 16):
            content += part
            if len(content) > _LONGEST_ANSWER_BYTES:
                raise ValueError("the answer is too long for metrics")
    return content.decode()
