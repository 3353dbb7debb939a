"""Each node and each DynaKube has its row, whatever is wrong with it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from oneagent.operator.cli import output, status
from oneagent.operator.cli.node_reports import NodeAnswer
from oneagent.operator.cli.snapshot import Cluster
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE, but

LEAVING = {"deletionTimestamp": "2023-11-14T00:00:00Z"}


def answering(**told: Any) -> Cluster:
    return but(answers=(NodeAnswer(NODE, DRIVER_POD, snapshots.told(**told)),))


@pytest.mark.parametrize(
    ("picture", "driver", "problem"),
    [
        (but(pods=(), answers=()), "none", "no pod of the driver"),
        (but(csi_nodes=()), "ready", "kubelet does not know the driver"),
        (answering(problems=["the disk is full"]), "ready", "the disk is full"),
        (but(answers=(NodeAnswer(NODE, DRIVER_POD, None, "no answer"),)), "ready", "no answer"),
    ],
)
def test_what_is_wrong_with_a_node_stands_in_its_row(picture: Cluster, driver: str, problem: str) -> None:
    found = status.of(picture)
    (row,) = found.nodes
    assert (row.driver, row.problems) == (driver, (problem,))
    assert not found.well


def test_a_cluster_that_is_well_is_told_so_without_a_driver_too() -> None:
    assert status.of(snapshots.well()).well
    assert status.of(but(csi_driver=None, csi_nodes=(), pods=(), answers=())).well


def test_a_node_that_the_driver_is_not_for_needs_nobody() -> None:
    linux = {"kubernetes.io/os": "linux"}
    driver = snapshots.workload("DaemonSet", "oneagent-csi-driver")
    driver["spec"]["template"]["spec"]["nodeSelector"] = linux
    nodes = (snapshots.node(**linux), snapshots.node("windows-1", **{"kubernetes.io/os": "windows"}))
    found = status.of(but(nodes=nodes, daemon_sets=(driver,)))
    assert [(row.node, row.driver) for row in found.nodes] == [("windows-1", "none"), (NODE, "ready")]
    assert found.well


def test_what_could_not_be_read_is_not_well() -> None:
    found = status.of(but(unread={"nodes": "Forbidden"}))
    assert (found.well, found.unread) == (False, ("Forbidden",))


def test_a_dynakube_that_is_not_ready_says_why() -> None:
    found = status.of(but(dynakubes=(snapshots.dynakube(Ready="False"),)))
    (row,) = found.dynakubes
    assert (row.name, row.mode, row.ready, row.message) == ("shop", "applicationMonitoring", False, "Ready is False")
    assert not found.well


def test_of_two_pods_on_a_node_the_one_that_stays_is_asked() -> None:
    old = snapshots.pod("old", component="csi-driver", **LEAVING)
    new = snapshots.pod("new", component="csi-driver")
    for order in ((old, new), (new, old)):
        assert but(pods=order).drivers == {NODE: new}


def test_the_tables_hold_what_people_ask_for() -> None:
    shown = io.StringIO()
    output.show_status(status.of(answering(problems=["[red]the \x1b[31mdisk"])), shown)
    for part in (NODE, "1.290.0.20261001-120000", "applicationMonitoring", "[red]the ?[31mdisk"):
        assert part in shown.getvalue()
