from __future__ import annotations

import datetime
from typing import Any

import pytest

from oneagent.operator.host_agents import rollout

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC).timestamp()


def at(seconds_ago: float) -> str:
    return datetime.datetime.fromtimestamp(NOW - seconds_ago, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(name: str = "p-1", node: str = "node-1", *, ready: bool = True, since: float = 60, **status: Any) -> Any:
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": at(since)}
    more = status.pop("conditions", [])
    return {
        "metadata": {"name": name, "creationTimestamp": at(since)},
        "spec": {"nodeName": node},
        "status": {"hostIP": "10.0.0.1", "conditions": [condition, *more], **status},
    }


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "dynatrace-oneagent", "restartCount": state.pop("restarts", 0), **state}]


def daemon_set(desired: int, updated: int, available: int, *, generation: int = 1, observed: int = 1) -> Any:
    status = {
        "desiredNumberScheduled": desired,
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberReady": available,
        "observedGeneration": observed,
    }
    return {"metadata": {"generation": generation}, "status": status}


def test_a_rollout_is_done_when_every_node_has_the_desired_agent_available() -> None:
    assert rollout.progress(daemon_set(2, 2, 2), [pod(), pod("p-2", "node-2")], NOW).state == "done"
    assert rollout.progress(daemon_set(2, 1, 2), [pod(), pod("p-2", "node-2")], NOW).state == "rolling"
    assert rollout.progress(daemon_set(2, 2, 1), [pod(), pod("p-2", "node-2")], NOW).state == "rolling"


def test_the_status_of_an_earlier_daemon_set_counts_for_nothing() -> None:
    assert rollout.progress(daemon_set(1, 1, 1, generation=2), [pod()], NOW).state == "rolling"
    assert rollout.progress({"metadata": {"generation": 1}}, [], NOW).state == "rolling"


def test_no_node_is_no_failure() -> None:
    assert rollout.progress(daemon_set(0, 0, 0), [], NOW).state == "no nodes"


def test_nodes_without_a_pod_are_counted() -> None:
    assert "1 have no pod" in rollout.progress(daemon_set(2, 1, 1), [pod()], NOW).message


def test_a_pod_is_requeued_for_the_time_when_it_becomes_overdue() -> None:
    early = rollout.progress(daemon_set(1, 1, 0), [pod(ready=False, since=400)], NOW)
    assert early.state == "rolling"
    assert early.requeue_seconds == pytest.approx(200)
    late = rollout.progress(daemon_set(1, 1, 0), [pod(ready=False, since=600)], NOW)
    assert late.state == "stuck"
    assert late.requeue_seconds is not None


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "too many pods"}
PULLING = {"reason": "ImagePullBackOff", "message": "back-off pulling image"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"containerStatuses": container(state={"waiting": PULLING})}, "ImagePullBackOff: back-off pulling image"),
        ({"initContainerStatuses": container(state={"waiting": PULLING})}, "ImagePullBackOff: back-off"),
        ({"conditions": [UNSCHEDULABLE]}, "Unschedulable: too many pods"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        ({"phase": "Failed"}, "the pod has failed"),
        ({"containerStatuses": container(state={"running": {}})}, "not ready"),
        ({"containerStatuses": None, "conditions": []}, "not ready"),
    ],
)
def test_an_overdue_pod_is_reported_with_its_own_reason(status: Any, reason: str) -> None:
    found = rollout.progress(daemon_set(3, 3, 2), [pod(ready=False, since=900, **status)], NOW)
    assert found.state == "stuck"
    assert found.message.startswith(f"1 of 3 agents are not ready in time: node-1: {reason}")
    assert found.message.endswith("(pod p-1)")


@pytest.mark.parametrize("ready", [True, False])
def test_an_agent_that_crashes_repeatedly_is_overdue_though_it_is_ready_in_between(ready: bool) -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at(100)}}
    status = container(state={"running": {"startedAt": at(30)}}, lastState=ended, restarts=4)
    found = rollout.progress(daemon_set(1, 1, 1), [pod(ready=ready, since=5, containerStatuses=status)], NOW)
    assert found.state == "stuck"
    assert "restarted 4 times, last exit code 137: OOMKilled" in found.message


def test_restarts_of_long_ago_are_over() -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at(5000)}}
    status = container(state={"running": {"startedAt": at(4000)}}, lastState=ended, restarts=40)
    assert rollout.progress(daemon_set(1, 1, 1), [pod(containerStatuses=status)], NOW).state == "done"


def test_a_pod_that_does_not_terminate_is_overdue_though_it_is_ready() -> None:
    ending = pod()
    ending["metadata"]["deletionTimestamp"] = at(700)
    assert "does not terminate" in rollout.progress(daemon_set(1, 0, 1), [ending], NOW).message


def test_of_many_overdue_pods_some_are_listed_and_the_rest_counted() -> None:
    pods = [pod(f"p-{number}", f"node-{number}", ready=False, since=900) for number in range(9)]
    message = rollout.progress(daemon_set(9, 9, 0), pods, NOW).message
    assert message.startswith("9 of 9 agents")
    assert message.endswith("and 6 more")


def test_instances_are_by_node_and_the_pod_that_stays_is_the_nodes() -> None:
    ending, starting = pod("old", since=10), pod("new", ready=False, since=100)
    ending["metadata"]["deletionTimestamp"] = at(1)
    elsewhere, nowhere = pod("other", "node-0"), pod("none", "")
    assert rollout.instances([starting, ending, elsewhere, nowhere]) == {
        "node-0": {"podName": "other", "ipAddress": "10.0.0.1"},
        "node-1": {"podName": "new", "ipAddress": "10.0.0.1"},
    }
