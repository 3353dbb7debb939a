"""A pod that just keeps the LimitRange or the quota of its namespace is admitted with its injection, too."""

from __future__ import annotations

import pytest

from oneagent.common.injection import pod_annotations
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook import namespace_limits
from tests.e2e.webhook.applications import Applications, untouched
from tests.e2e.webhook.namespace_limits import CASES, SMALL, TINY, Bounds


@pytest.mark.parametrize("bounds", [*CASES, SMALL], ids=lambda bounds: bounds.name)
def test_it_starts_with_its_agent(
    bounds: Bounds, kubectl: Kubectl, applications: Applications, monitored: str, wait_for: WaitFor
) -> None:
    pod = applications.started(namespace_limits.bounded(bounds, kubectl, monitored, wait_for))
    assert applications.monitored(pod)
    assert namespace_limits.resources_of_ours(pod) == pod["spec"]["containers"][0]["resources"]


def test_it_starts_without_its_agent_if_nobody_may_have_what_our_container_needs(
    kubectl: Kubectl, applications: Applications, monitored: str, wait_for: WaitFor
) -> None:
    pod = namespace_limits.bounded(TINY, kubectl, monitored, wait_for)
    found = applications.started(pod)
    assert untouched(found)
    assert found["metadata"]["annotations"][pod_annotations.REASON] == "LimitsTooLow"
    assert "at least cpu 20m and memory 24Mi" in applications.events("LimitsTooLow")


def test_small_limits_of_its_own_are_enough_where_nothing_forbids_ours_more(
    applications: Applications, monitored: str
) -> None:
    pod = manifests.application("tiny", monitored)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "50m", "memory": "20Mi"}}
    found = applications.started(pod)
    assert applications.monitored(found)
    assert namespace_limits.resources_of_ours(found)["limits"] == {"cpu": "100m", "memory": "60Mi"}
