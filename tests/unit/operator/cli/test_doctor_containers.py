"""Findings about containers that crash or have no image."""

from __future__ import annotations

import dataclasses

import pytest

from oneagent.operator.cli import status
from oneagent.operator.cli.doctor import checks
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, but


def ended(container: str, state: str, **last: object) -> snapshots.Object:
    return {"name": container, "ready": False, "state": {state: {}}, "lastState": {"terminated": last}}


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (
            {"exitCode": 2, "reason": "Error", "message": "usage: x\nx: error: no flag --y\n"},
            "(exit code 2) x: error: no flag --y",
        ),
        ({"exitCode": 137, "reason": "OOMKilled"}, "(OOMKilled, exit code 137)"),
        (
            {
                "exitCode": 1,
                "reason": "Error",
                "message": '{"time": "now", "message": "no database", "reason": "locked", "error": "a\\nb"}',
            },
            "(exit code 1) no database: locked: b",
        ),
        (
            {"exitCode": 1, "reason": "Error", "message": r'line 8, in run\n    x()\nOSError: [Errno 28] no space"}'},
            "(exit code 1) OSError: [Errno 28] no space",
        ),
    ],
)
def test_a_container_that_crashes_is_told_with_its_last_words_and_its_log(last: snapshots.Object, told: str) -> None:
    """Not with kubelet's, which differ from node to node."""
    crashing = ended("provisioner", "waiting", **last)
    kubelets = "back-off 40s restarting failed container=provisioner pod=oneagent-csi-driver-x_dynatrace(6f1c)"
    crashing["state"]["waiting"] = {"reason": "CrashLoopBackOff", "message": kubelets}
    again = ended("server", "running", **last)
    status_ = {"conditions": [], "containerStatuses": [crashing, again]}
    cluster = but(pods=(snapshots.pod(DRIVER_POD, component="csi-driver", status=status_),), reports=())
    log = f"kubectl -n dynatrace logs {DRIVER_POD} -c provisioner --previous"
    (finding,) = (one for one in checks.run_checks(cluster).findings if one.check == "NodesWithoutDriver")
    (problem,) = (one for one in status.summarize(cluster).problems if one.check == "Nodes")
    for one in (finding, problem):
        assert one.sentence.endswith(f": provisioner CrashLoopBackOff {told}; server restarts {told}".lstrip(": ")), one
        assert one.remedy == log


def test_an_image_that_all_containers_lack_is_told_once_with_what_to_check() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "oneagent-csi:9"'}
    statuses = [{"name": name, "ready": False, "state": {"waiting": waiting}} for name in ("registrar", "server")]
    status_ = {"conditions": [], "containerStatuses": statuses}
    cluster = but(pods=(snapshots.pod(DRIVER_POD, component="csi-driver", status=status_),), reports=())
    (problem,) = (one for one in status.summarize(cluster).problems if one.check == "Nodes")
    assert problem.sentence.count("Back-off pulling") == 1
    assert "registrar, server ImagePullBackOff" in problem.sentence
    assert problem.remedy.startswith("check the image's name")


def test_a_deployment_that_crashes_is_told_with_the_pods_log() -> None:
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 40s"}
    crashing = ended("webhook", "waiting", exitCode=2, reason="Error", message="no flag --y")
    crashing["state"]["waiting"] = waiting
    pod = snapshots.pod("oneagent-webhook-y", component="webhook", status={"containerStatuses": [crashing]})
    cluster = dataclasses.replace(snapshots.scaled(1, 0), pods=(pod,))
    (finding,) = (one for one in checks.run_checks(cluster).findings if one.check == "Deployments")
    assert "oneagent-webhook-y: webhook CrashLoopBackOff (exit code 2) no flag --y" in finding.sentence
    assert finding.remedy == "kubectl -n dynatrace logs oneagent-webhook-y -c webhook --previous"
