"""Events about DynaKubes, from the reports of all nodes."""

from __future__ import annotations

import asyncio

from oneagent.common import node_lease
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import events, types
from oneagent.common.node_lease import Corruption, DynaKubeReport, NodeReport
from oneagent.operator.cache import Cache
from oneagent.operator.rollout_events import RolloutEvents

OLD, NEW = "1.277.0.20230914-094321", "1.279.0.20231001-000000"
HOUR = 3600.0


class World:
    """A cluster of nodes whose reports the operator has."""

    def __init__(self, nodes: int) -> None:
        self.clock = 0.0
        self.cache = Cache()
        self.cache.dynakubes[DynaKubeName("demo")] = {"metadata": {"name": "demo"}}
        self.woken: list[DynaKubeName] = []
        self.written: list[tuple[str, str, str]] = []
        self.events = RolloutEvents(self.cache, self._record, self.woken.append, lambda: self.clock, lambda: self.clock)
        self.nodes = nodes
        self.report(range(nodes), OLD)
        self.live(10)

    def report(self, nodes: range, version: str, state: node_lease.State = "ready", message: str = "") -> None:
        for node in nodes:
            kube = DynaKubeReport("demo", version, state, message)
            self.cache.node_reports[node_lease.lease_name(f"node-{node}")] = NodeReport((kube,))

    def corrupt(self, node: int) -> None:
        name = node_lease.lease_name(f"node-{node}")
        found = Corruption(OLD, int(self.clock), "lib.so (content)")
        self.cache.node_reports[name] = NodeReport(self.cache.node_reports[name].dynakubes, (found,))

    def live(self, seconds: float) -> list[tuple[str, str, str]]:
        """The Events of so many seconds."""
        before, end = len(self.written), self.clock + seconds
        while self.clock < end:
            self.clock += asyncio.run(self.events.reconcile())
        return self.written[before:]

    def _record(self, obj: types.Object, kind: events.Kind, reason: str, message: str) -> None:
        assert obj["metadata"]["name"] == "demo"
        self.written.append((kind, reason, message))


def test_what_is_there_when_the_operator_starts_is_no_news() -> None:
    assert World(3).written == []


def test_a_rollout_to_hundreds_of_nodes_writes_two_events() -> None:
    world = World(500)
    for step in range(0, 500, 50):
        world.report(range(step, step + 50), NEW)
        world.live(10)
    assert world.live(HOUR) == []
    assert [message for _, _, message in world.written] == [
        f"Agent version {NEW} is on 50 of 500 nodes",
        f"Agent version {NEW} is on 500 of 500 nodes",
    ]
    assert {(kind, reason) for kind, reason, _ in world.written} == {("Normal", "InstallAgentVersion")}


def test_a_version_that_fails_on_all_nodes_writes_a_few_events_an_hour_with_their_number() -> None:
    world = World(300)
    for step in range(0, 300, 30):
        world.report(range(step, step + 30), NEW, "failed", "404 Not Found")
        world.live(10)
    world.live(HOUR)
    kinds = {(kind, reason) for kind, reason, _ in world.written}
    assert kinds == {("Warning", "FailedInstallAgentVersion")}
    assert world.written[1][2] == (
        f"Agent version {NEW} was not installed on 300 of 300 nodes, as on node-0: 404 Not Found"
    )
    assert len(world.written) == 3


def test_the_commonest_reason_is_named() -> None:
    world = World(5)
    world.report(range(2), NEW, "failed", "no space")
    world.report(range(2, 5), NEW, "failed", "404 Not Found")
    ((_, _, message),) = world.live(10)
    assert message.endswith("as on node-2: 404 Not Found")


def test_nodes_that_are_added_later_are_no_news() -> None:
    world = World(3)
    world.report(range(3), NEW)
    assert len(world.live(10)) == 1
    world.report(range(5), NEW)
    assert world.live(HOUR) == []


def test_a_refused_image_is_said_once_for_all_nodes() -> None:
    world = World(3)
    world.report(range(3), "", "refused", "sha256:1 is not signed")
    assert world.live(HOUR / 2) == [
        (
            "Warning",
            "RefusedAgentImage",
            "Agent image was refused on 3 of 3 nodes, as on node-0: sha256:1 is not signed",
        )
    ]


def test_a_corruption_is_a_warning_that_names_the_node() -> None:
    world = World(3)
    world.corrupt(1)
    ((kind, reason, message),) = world.live(HOUR / 2)
    assert (kind, reason) == ("Warning", "CorruptAgentVersion")
    assert "on 1 of 3 nodes, as on node-1: lib.so (content)" in message


def test_a_problem_is_said_by_a_new_operator_too() -> None:
    world = World(0)
    world.report(range(2), NEW, "failed", "404 Not Found")
    assert [reason for _, reason, _ in world.live(10)] == ["FailedInstallAgentVersion"]


def test_the_dynakube_is_woken_when_its_failed_nodes_change_and_not_by_progress() -> None:
    world = World(10)
    world.report(range(5), NEW)
    world.live(60)
    assert world.woken == []
    world.report(range(5, 7), NEW, "failed", "404 Not Found")
    world.live(60)
    assert world.woken == ["demo"]
    world.report(range(5, 7), NEW)
    world.live(60)
    assert world.woken == ["demo", "demo"]


def test_a_failure_that_reaches_node_after_node_wakes_the_dynakube_at_its_start_and_its_end() -> None:
    world = World(200)
    for step in range(0, 200, 10):
        world.report(range(step, step + 10), NEW, "failed", "404 Not Found")
        world.live(10)
    assert world.woken == ["demo", "demo"], "each status goes to the watch of every node"
    for step in range(0, 200, 2):
        world.report(range(step, step + 2), NEW)
        world.live(30)
    assert len(world.woken) <= 2 + 3000 / 300 + 1
    world.live(HOUR)
    assert len(world.woken) <= 2 + 3000 / 300 + 1
