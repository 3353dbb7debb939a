"""Reports of a node are read typed, also those of another release."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oneagent.common import node_report
from oneagent.common.node_report import Diagnosis, Disk, NodeStatus, PodEvidence, PodProcess, PodReport, View

STATUS = NodeStatus(
    data_dir="/data",
    taken_at=2.5,
    metadata="ok",
    set_aside=(),
    running=node_report.Running(server=True, provisioner=None),
    versions=(node_report.VersionStatus("1.2", "ready", 7, 1, ("shop",), 1.0, None, ""),),
    volumes=(node_report.VolumeStatus("v", "shop", "cart", "shop", "app", "1.2", "mounted", None, False, "/t", 1.0),),
    failures=(node_report.Failure("v", "shop", "cart", "shop", 2, None, True, "no room"),),
    dynakubes=(node_report.DynaKubeStatus("shop", "abc", "1.2", True, "", None),),
    disk=Disk(1, 2, 3, 4, 5, 6, 7),
    problems=("the disk is full",),
)
EVIDENCE = PodEvidence(
    namespace="shop",
    pod="cart",
    taken_at=1.0,
    volume=node_report.Volume("v", "app", "shop", "1.2", "mounted", "/t", 0, "", None, ""),
    mounted=True,
    view=View(None, ("/data/agents/1.2",)),
    is_corrupt=False,
    processes=(PodProcess(7, "java", mapped=True, preload=None, static=False),),
    sees_pods=True,
    server_running=None,
)
POD = PodReport(EVIDENCE, Diagnosis("Monitored", "it is monitored"))


def through_json(report: dict[str, Any]) -> Any:
    return json.loads(json.dumps(report))


def test_a_status_is_read_as_it_was_written() -> None:
    assert node_report.status_from_json(through_json(node_report.status_to_json(STATUS))) == STATUS


def test_a_diagnosis_is_read_as_it_was_written() -> None:
    assert node_report.pod_from_json(through_json(node_report.pod_to_json(POD))) == POD


def test_unknown_and_missing_keys_of_another_release_are_tolerated() -> None:
    status = node_report.status_from_json({"problems": [], "new": 1, "versions": [{"version": "1.2", "new": {}}]})
    assert status.versions[0].version == "1.2"
    assert (status.disk, status.volumes, status.running.server) == (None, (), None)


def test_values_of_another_type_read_as_empty() -> None:
    status = node_report.status_from_json(
        {"problems": "x", "taken_at": True, "disk": [], "failures": [None, {"attempts": "2", "empty": 1, "pod": 3}]}
    )
    assert (status.problems, status.taken_at, status.disk) == ((), 0.0, None)
    assert [(row.attempts, row.empty, row.pod) for row in status.failures] == [(0, False, ""), (0, False, "")]


@pytest.mark.parametrize("report", [None, [], "", {}, {"format": 1}])
def test_other_json_is_refused(report: Any) -> None:
    with pytest.raises(node_report.FormatError, match="problems"):
        node_report.status_from_json(report)
    with pytest.raises(node_report.FormatError, match="verdict"):
        node_report.pod_from_json(report)
