"""The startup taint on a real node: what holds it there, what takes it away, and that nothing else may be changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common.identifiers import DRIVER_NAME
from oneagent.operator.startup_taint import readiness
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.node import Node
from tests.e2e import manifests, operator_process
from tests.e2e.fixture_types import Apply, Release, WaitFor
from tests.e2e.installation import Installed
from tests.fakes.tenant import Tenant

KEY: Final = "oneagent.example.com/not-ready"
MISSING: Final = "1.299.0.20260901-120000"


class World:
    """Nodes, as the administrator sees and changes them."""

    def __init__(self, cluster: Cluster, wait_for: WaitFor) -> None:
        self._plane, self._kubectl, self._wait_for = cluster.control_plane, cluster.kubectl, wait_for

    def taint(self, node: str) -> None:
        self._kubectl("taint", "nodes", node, f"{KEY}:NoSchedule")

    def is_held(self, node: str) -> bool:
        spec = self._plane.call("GET", f"/api/v1/nodes/{node}")["spec"]
        return KEY in {taint["key"] for taint in spec.get("taints", ())}

    def wait_said(self, node: str, reason: str, within: float = 15) -> str:
        """The message of the Event about a node."""

        def said() -> str:
            query = f"?fieldSelector=involvedObject.kind=Node,involvedObject.name={node},reason={reason}"
            events = self._plane.call("GET", f"/api/v1/namespaces/default/events{query}")["items"]
            return str(events[-1]["message"]) if events else ""

        return self._wait_for(said, f"an Event {reason} about {node}", within)

    def wait_free(self, node: str, within: float = 15) -> None:
        self._wait_for(lambda: not self.is_held(node), f"{node} has lost the taint", within)

    def register(self, *drivers: dict[str, Any]) -> list[dict[str, Any]]:
        """Let kubelet's list of drivers be another; the one from before."""
        path = f"/apis/storage.k8s.io/v1/csinodes/{Node.name}"
        before: list[dict[str, Any]] = self._plane.call("GET", path)["spec"].get("drivers") or []
        self._plane.call("PATCH", path, {"spec": {"drivers": list(drivers)}})
        return before


@pytest.fixture
def world(cluster: Cluster, wait_for: WaitFor) -> World:
    return World(cluster, wait_for)


@pytest.fixture(scope="module")
def caring(rights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[operator_process.Operator]:
    """An operator that takes the taint off, and is out of patience after a second."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    flags = (f"--startup-taint={KEY}:NoSchedule", "--startup-taint-timeout=1s")
    with operator_process.running(operator_process.Operator(rights, log, *flags)) as operator:
        yield operator
        print(log.read_text()[-8000:])


@pytest.fixture
def equipped(world: World, kubectl: Kubectl, driver: Installed, wait_for: WaitFor) -> Iterator[str]:
    """The node with the driver; a taint that a test gives it goes."""
    wait_for(driver.registered, "the driver is registered")
    yield Node.name
    if world.is_held(Node.name):
        kubectl("taint", "nodes", Node.name, f"{KEY}:NoSchedule-")


def test_a_node_is_held_until_it_has_the_driver_and_the_version(
    equipped: str, world: World, dynatrace: Tenant, apply: Apply, release: Release, caring: operator_process.Operator
) -> None:
    apply(*manifests.dynakube("held", dynatrace.api_url, MISSING))
    drivers = world.register()
    assert DRIVER_NAME in {driver["name"] for driver in drivers}
    try:
        world.taint(equipped)
        assert "not registered" in world.wait_said(equipped, readiness.DRIVER_NOT_REGISTERED)
    finally:
        world.register(*drivers)
    assert MISSING in world.wait_said(equipped, readiness.VERSIONS_MISSING)
    assert world.is_held(equipped)
    apply(*manifests.dynakube("held", dynatrace.api_url, release()))
    world.wait_free(equipped)
    assert KEY in world.wait_said(equipped, readiness.STARTUP_TAINT_REMOVED)


def test_a_node_that_gets_no_driver_is_not_held_for_ever(
    world: World, apply: Apply, driver: Installed, caring: operator_process.Operator
) -> None:
    # Without the label of an operating system no DaemonSet has a pod for it.
    taint = {"key": KEY, "effect": "NoSchedule"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}, "spec": {"taints": [taint]}}
    apply(node)
    world.wait_free("elsewhere")
    assert "no pod for this node" in world.wait_said("elsewhere", readiness.NODE_WITHOUT_DRIVER)


@pytest.mark.parametrize("change", [("label", "node"), ("annotate", "node"), ("taint", "node")])
def test_nothing_else_of_a_node_may_be_changed(change: tuple[str, ...], rights: Path, wait_for: WaitFor) -> None:
    operator = Kubectl(rights)

    effect = ":PreferNoSchedule" if change[0] == "taint" else ""

    def refused() -> bool:
        try:
            operator(*change, Node.name, "--overwrite", f"example.com/changed=yes{effect}")
        except KubectlError as error:
            return "may take taints off a node, and nothing else" in str(error)
        return False

    # The API server heeds a new policy after a moment.
    wait_for(refused, "the policy is in force")
