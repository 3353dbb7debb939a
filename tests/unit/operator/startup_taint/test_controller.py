"""Removal of the startup taint, and the Events while a node keeps it.

The driver's pod is a real HTTP server with the provisioner's own metrics, at an address of the loopback.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.exposition import MetricsHandler

from oneagent.common.identifiers import DRIVER_NAME, DynaKubeName
from oneagent.common.kubernetes.errors import UnavailableError
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.operator.cache import Cache
from oneagent.operator.startup_taint import readiness
from oneagent.operator.startup_taint import taint as startup_taint_taint
from oneagent.operator.startup_taint.controller import StartupTaintController
from tests.fakes.object_api import Objects

TAINT = {"key": "oneagent.dynatrace.com/not-ready", "effect": "NoSchedule"}
OTHER = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
SAME_KEY = {"key": "oneagent.dynatrace.com/not-ready", "effect": "NoExecute"}
LABELS = {"app.kubernetes.io/name": "oneagent-csi", "app.kubernetes.io/component": "csi-driver"}
NEW, OLD = "1.300.0.20250101-000000", "1.299.0.20240901-000000"
TIMEOUT = 600.0


class Driver:
    """The metrics endpoint of one node's provisioner."""

    def __init__(self) -> None:
        self.metrics = ProvisionerMetrics()
        handler = MetricsHandler.factory(self.metrics.registry)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def has(self, *versions: str, ready: int, waiting: int = 0) -> None:
        self.metrics.store_bytes.clear()
        for version in versions:
            self.metrics.store_bytes.labels(version, "").set(1 << 30)
        self.metrics.dynakubes.labels("ready").set(ready)
        self.metrics.dynakubes.labels("waiting").set(waiting)


class World:
    """A node with the taint and others, the driver's pod on it, and a DynaKube that wants a version."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.now = 1000.0
        self.objects, self.observed = Objects(), Cache()
        self.events: list[tuple[str, str, str]] = []
        self.messages: list[str] = []
        self.node("node")
        self.pod("node")
        self.registered("node")
        self.dynakube("one", NEW)
        taint = startup_taint_taint.parse("oneagent.dynatrace.com/not-ready:NoSchedule")
        assert taint is not None
        self.controller = StartupTaintController(
            self.objects,
            self.observed,
            taint,
            self._record_event,
            timeout_seconds=TIMEOUT,
            clock=lambda: self.now,
        )

    def node(self, name: str, *listed: Mapping[str, str]) -> None:
        spec = {"taints": [dict(taint) for taint in listed or (OTHER, TAINT, SAME_KEY)]}
        self.objects.put("Node", {"metadata": {"name": name}, "spec": spec})
        self.observed.nodes[name] = {}

    def pod(self, node: str, **status: str) -> None:
        ports = [{"name": "prov-metrics", "containerPort": self.driver.port}]
        spec = {"nodeName": node, "containers": [{"name": "server"}, {"name": "provisioner", "ports": ports}]}
        pod = {"metadata": {}, "spec": spec, "status": status or {"podIP": "127.0.0.1"}}
        self.observed.driver_pods[f"driver-{node}"] = pod

    def registered(self, node: str, *drivers: str) -> None:
        listed = [{"name": name, "nodeID": node} for name in drivers or (DRIVER_NAME,)]
        self.objects.put("CSINode", {"metadata": {"name": node}, "spec": {"drivers": listed}})

    def dynakube(self, name: str, version: str = "", mode: str = "cloudNativeFullStack", **options: Any) -> None:
        spec = {"apiUrl": "https://tenant.example/api", "oneAgent": {mode: options}}
        status = {"codeModules": {"version": version}} if version else {}
        metadata = {"name": name, "namespace": "dynatrace"}
        manifest = {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": metadata}
        self.observed.dynakubes[DynaKubeName(name)] = {**manifest, "spec": spec, "status": status}

    def reconcile(self, after: float = 0.0) -> float:
        self.now += after
        return asyncio.run(self.controller.reconcile())

    def taints(self, name: str = "node") -> list[Mapping[str, str]]:
        return list(self.objects.stored["Node", "", name]["spec"].get("taints") or ())

    def is_held(self, name: str = "node") -> bool:
        return TAINT in self.taints(name)

    def _record_event(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        assert (about["apiVersion"], about["kind"]) == ("v1", "Node")
        self.events.append((about["metadata"]["name"], kind, reason))
        self.messages.append(message)


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.stop()


@pytest.fixture
def world(driver: Driver) -> World:
    return World(driver)


class TestANodeIsHeld:
    def test_until_the_driver_is_registered(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.registered("node", "csi.somebody.else")
        world.reconcile()
        assert world.is_held()
        world.registered("node")
        world.reconcile()
        assert not world.is_held()

    def test_until_its_csi_node_is_there(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.objects.remove("CSINode", "node")
        world.reconcile()
        assert world.is_held()

    def test_until_the_driver_has_seen_dynakubes(self, world: World) -> None:
        world.reconcile()
        assert world.is_held()

    def test_until_the_version_is_in_the_store(self, world: World) -> None:
        world.driver.has(ready=0, waiting=1)
        world.reconcile()
        assert world.is_held()
        world.driver.has(NEW, ready=1)
        world.reconcile()
        assert not world.is_held()

    def test_while_the_node_only_knows_of_an_earlier_decision(self, world: World) -> None:
        world.driver.has(OLD, ready=1)
        world.reconcile()
        assert world.is_held()

    def test_until_every_dynakube_has_its_version(self, world: World) -> None:
        world.dynakube("two", OLD)
        world.driver.has(NEW, ready=1, waiting=1)
        world.reconcile()
        assert world.is_held()
        world.driver.has(NEW, OLD, ready=2)
        world.reconcile()
        assert not world.is_held()

    def test_until_a_version_is_there_that_only_the_node_knows(self, world: World) -> None:
        world.observed.dynakubes.clear()
        world.dynakube("one", codeModulesImage="file:///packages/agent.zip")
        world.driver.has(OLD, ready=0, waiting=1)
        world.reconcile()
        assert world.is_held()
        world.driver.has(OLD, NEW, ready=1)
        world.reconcile()
        assert not world.is_held()

    def test_while_its_pod_does_not_answer(self, world: World, driver: Driver) -> None:
        world.driver.has(NEW, ready=1)
        world.pod("node", podIP="127.0.0.99")  # Nobody listens there.
        world.reconcile()
        assert world.is_held()

    def test_while_its_pod_does_not_run(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.pod("node", phase="Pending")
        world.reconcile(after=0)
        world.reconcile(after=10 * TIMEOUT)
        assert world.is_held()


class TestPodsMayCome:
    def test_without_any_dynakube_as_soon_as_the_driver_is_registered(self, world: World) -> None:
        world.observed.dynakubes.clear()
        world.reconcile()
        assert not world.is_held()

    @pytest.mark.parametrize("mode", ["hostMonitoring", "classicFullStack"])
    def test_where_no_dynakube_wants_a_version_in_the_store(self, world: World, mode: str) -> None:
        world.observed.dynakubes.clear()
        world.dynakube("one", mode=mode)
        world.driver.has(ready=0, waiting=1)
        world.reconcile()
        assert not world.is_held()

    def test_although_some_dynakube_cannot_be_read(self, world: World) -> None:
        world.dynakube("broken", version="../../etc")
        world.driver.has(NEW, ready=1)
        world.reconcile()
        assert not world.is_held()

    def test_and_no_other_taint_goes(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.reconcile()
        assert world.taints() == [OTHER, SAME_KEY]
        assert world.events == [("node", "Normal", readiness.STARTUP_TAINT_REMOVED)]

    def test_also_where_it_is_the_only_taint_and_has_a_value(self, world: World) -> None:
        world.node("node", {**TAINT, "value": "true"})
        world.driver.has(NEW, ready=1)
        world.reconcile()
        assert world.taints() == []

    def test_and_what_somebody_else_adds_at_that_moment_stays(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        added = {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}

        def other(verb: str, kind: str, name: str) -> None:
            if verb == "merge":
                world.objects.before = lambda verb, kind, name: None
                world.node("node", OTHER, TAINT, added)

        world.objects.before = other
        world.reconcile()
        assert world.taints() == [OTHER, added]

    def test_and_a_node_without_the_taint_is_never_written(self, world: World) -> None:
        world.node("node", OTHER, SAME_KEY)
        world.driver.has(NEW, ready=1)
        world.reconcile()
        assert {verb for verb, *_ in world.objects.calls} == {"list"}


class TestANodeWithoutTheDriver:
    def test_is_held_no_longer_than_a_daemon_set_may_take_for_its_pod(self, world: World) -> None:
        del world.observed.driver_pods["driver-node"]
        world.reconcile()
        world.reconcile(after=TIMEOUT - 1)
        assert world.is_held()
        world.reconcile(after=1)
        assert world.taints() == [OTHER, SAME_KEY]
        assert world.events == [("node", "Warning", readiness.NODE_WITHOUT_DRIVER)]

    def test_is_no_node_whose_pod_has_no_place_yet(self, world: World) -> None:
        world.pod("node", phase="Pending")
        pod = world.observed.driver_pods["driver-node"]
        del pod["spec"]["nodeName"]
        field = {"key": "metadata.name", "operator": "In", "values": ["node"]}
        required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        pod["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        world.reconcile()
        world.reconcile(after=TIMEOUT)
        assert world.is_held()

    def test_is_no_node_whose_pod_was_gone_for_a_moment(self, world: World) -> None:
        pod = copy.deepcopy(world.observed.driver_pods["driver-node"])
        world.reconcile()
        world.reconcile(after=TIMEOUT)
        del world.observed.driver_pods["driver-node"]
        world.reconcile(after=5)
        assert world.is_held()
        world.observed.driver_pods["driver-node"] = pod
        world.reconcile(after=TIMEOUT)
        assert world.is_held()


class TestANodeThatDoesNotGetThere:
    def test_says_why_once_it_has_waited_too_long(self, world: World) -> None:
        world.driver.has(ready=0, waiting=1)
        world.reconcile()
        world.reconcile(after=TIMEOUT - 1)
        assert world.events == []
        world.reconcile(after=1)
        world.reconcile(after=5)
        assert world.events == [("node", "Warning", readiness.VERSIONS_MISSING)]
        assert NEW in world.messages[0]

    def test_says_it_again_when_the_reason_is_another(self, world: World) -> None:
        world.registered("node", "csi.somebody.else")
        world.reconcile()
        world.reconcile(after=TIMEOUT)
        world.registered("node")
        world.pod("node", phase="Pending")
        world.reconcile(after=5)
        assert [reason for *_, reason in world.events] == [
            readiness.DRIVER_NOT_REGISTERED,
            readiness.DRIVER_UNREACHABLE,
        ]

    def test_says_it_again_every_hour(self, world: World) -> None:
        world.reconcile()
        world.reconcile(after=TIMEOUT)
        world.reconcile(after=3599)
        assert len(world.events) == 1
        world.reconcile(after=1)
        assert len(world.events) == 2

    def test_holds_up_no_other_node(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.node("good")
        world.pod("good")
        world.registered("good")

        def fail(verb: str, kind: str, name: str) -> None:
            if name == "node":
                raise UnavailableError("not now")

        world.objects.before = fail
        world.reconcile()
        assert world.is_held("node")
        assert not world.is_held("good")

    def test_says_nothing_of_a_taint_that_somebody_else_has_removed(self, world: World) -> None:
        world.reconcile()
        world.reconcile(after=TIMEOUT - 1)
        world.node("node", OTHER)
        world.reconcile(after=1)
        assert ("find", "Node", "node") in world.objects.calls, "it was read by name, not from a list"
        assert world.events == []


class TestLooking:
    def test_finds_a_node_that_comes_later_without_listing_all(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.reconcile()
        world.objects.calls.clear()
        world.node("late")
        world.pod("late")
        world.registered("late")
        world.reconcile(after=1)
        assert not world.is_held("late")
        assert ("list", "Node", "") not in world.objects.calls

    def test_finds_the_taint_of_a_node_that_is_made_anew_by_the_same_name(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        world.reconcile()
        world.node("node")
        world.controller.on_node("node")
        world.reconcile(after=1)
        assert not world.is_held()

    def test_finds_a_taint_that_comes_to_a_node_later(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        pause = world.reconcile()
        world.node("node")
        world.reconcile(after=pause)
        assert not world.is_held()

    def test_costs_nothing_while_no_node_has_the_taint(self, world: World) -> None:
        world.driver.has(NEW, ready=1)
        assert world.reconcile() >= 60
        world.objects.calls.clear()
        world.reconcile(after=10)
        assert world.objects.calls == []

    def test_forgets_a_node_that_has_gone(self, world: World) -> None:
        world.reconcile()
        world.objects.remove("Node", "node")
        del world.observed.nodes["node"]
        assert world.reconcile(after=5) > 60
        world.reconcile(after=TIMEOUT)
        assert world.events == []

    def test_is_slower_the_more_nodes_wait(self, world: World) -> None:
        few = world.reconcile()
        for number in range(400):
            world.node(f"node-{number}")
        assert few == 5
        assert world.reconcile() > 15

    def test_goes_on_after_the_api_server_was_away(self, world: World) -> None:
        def away(verb: str, kind: str, name: str) -> None:
            raise UnavailableError("away")

        world.objects.before = away
        assert 0 < world.reconcile() <= 10
        world.objects.before = lambda verb, kind, name: None
        world.driver.has(NEW, ready=1)
        world.reconcile(after=5)
        assert not world.is_held()


class TestTheFlag:
    def test_names_key_and_effect(self) -> None:
        assert startup_taint_taint.parse("oneagent.dynatrace.com/not-ready:NoSchedule") == startup_taint_taint.Taint(
            TAINT["key"], TAINT["effect"]
        )

    def test_may_be_empty(self) -> None:
        assert startup_taint_taint.parse("") is None

    @pytest.mark.parametrize(
        "text",
        ["key", "key:", ":NoSchedule", "key:Sometimes", "key=value:NoSchedule", "a b:NoSchedule", "/x:NoSchedule"],
    )
    def test_is_refused_where_it_says_no_taint(self, text: str) -> None:
        with pytest.raises(ValueError, match="KEY:EFFECT"):
            startup_taint_taint.parse(text)

    @pytest.mark.parametrize(
        "text", ["node.kubernetes.io/not-ready:NoExecute", "node-role.kubernetes.io/control-plane:NoSchedule"]
    )
    def test_may_not_name_a_taint_of_kubernetes(self, text: str) -> None:
        with pytest.raises(ValueError, match="own"):
            startup_taint_taint.parse(text)


@given(st.text())
@example("+Inf")
def test_whatever_a_pod_answers_is_metrics_or_a_value_error(text: str) -> None:
    for given_text in (text, f'oneagent_csi_dynakubes{{state="ready"}} {text}\n', f"oneagent_csi_store_bytes{text}\n"):
        try:
            readiness.read_metrics(given_text)
        except ValueError:
            continue
