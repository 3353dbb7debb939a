"""Each node and each DynaKube has its row, whatever is wrong with it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from oneagent.operator.cli import output, status
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE, but

LEAVING = {"deletionTimestamp": "2023-11-14T00:00:00Z"}


def reporting(**fields: Any) -> ClusterSnapshot:
    return but(reports=(snapshots.report(**fields),))


@pytest.mark.parametrize(
    ("cluster", "driver", "problem"),
    [
        (but(pods=(), reports=()), "none", "no pod of the driver"),
        (but(csi_nodes=()), "ready", "the driver is not registered with kubelet"),
        (reporting(problems=["the disk is full"]), "ready", "the disk is full"),
        (but(reports=(NodeReport(NODE, DRIVER_POD, None, "no answer"),)), "ready", "no answer"),
    ],
)
def test_what_is_wrong_with_a_node_stands_in_its_row(cluster: ClusterSnapshot, driver: str, problem: str) -> None:
    found = status.summarize(cluster)
    (row,) = found.nodes
    assert (row.driver, row.problems) == (driver, (problem,))
    assert not found.is_healthy


def test_a_cluster_that_is_well_is_told_so_without_a_driver_too() -> None:
    assert status.summarize(snapshots.healthy()).is_healthy
    assert status.summarize(but(csi_driver=None, csi_nodes=(), pods=(), reports=())).is_healthy


def test_a_node_that_the_driver_is_not_for_needs_nobody() -> None:
    linux = {"kubernetes.io/os": "linux"}
    driver = snapshots.workload("DaemonSet", "oneagent-csi-driver")
    driver["spec"]["template"]["spec"]["nodeSelector"] = linux
    nodes = (snapshots.node(**linux), snapshots.node("windows-1", **{"kubernetes.io/os": "windows"}))
    found = status.summarize(but(nodes=nodes, daemon_sets=(driver,)))
    assert [(row.node, row.driver) for row in found.nodes] == [("windows-1", "none"), (NODE, "ready")]
    assert found.is_healthy


def test_what_could_not_be_read_is_not_well() -> None:
    found = status.summarize(but(unread={"nodes": "Forbidden"}))
    assert (found.is_healthy, found.unread) == (False, ("Forbidden",))


def test_a_dynakube_that_is_not_ready_says_why() -> None:
    found = status.summarize(but(dynakubes=(snapshots.dynakube(Ready="False"),)))
    (row,) = found.dynakubes
    assert (row.name, row.mode, row.ready, row.message) == ("shop", "applicationMonitoring", False, "Ready is False")
    assert not found.is_healthy


def test_of_two_pods_on_a_node_the_one_that_stays_is_asked() -> None:
    old = snapshots.pod("old", component="csi-driver", **LEAVING)
    new = snapshots.pod("new", component="csi-driver")
    for order in ((old, new), (new, old)):
        assert but(pods=order).drivers == {NODE: new}


def test_the_tables_hold_what_people_ask_for() -> None:
    shown = io.StringIO()
    output.print_status(status.summarize(reporting(problems=["[red]the \x1b[31mdisk"])), shown)
    for part in (NODE, "1.290.0.20261001-120000", "applicationMonitoring", "[red]the ?[31mdisk"):
        assert part in shown.getvalue()
