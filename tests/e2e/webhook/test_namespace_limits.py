"""A pod that just keeps the LimitRange or the quota of its namespace is admitted with its injection, too."""

from __future__ import annotations

import pytest

from tests.cluster.kubectl import Kubectl
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook import namespace_limits
from tests.e2e.webhook.applications import Applications, init_containers
from tests.e2e.webhook.namespace_limits import CASES, SMALL, TINY, Bounds


@pytest.mark.parametrize("bounds", [*CASES, SMALL, TINY], ids=lambda bounds: bounds.name)
def test_it_starts_with_its_agent(
    bounds: Bounds, kubectl: Kubectl, applications: Applications, monitored: str, wait_for: WaitFor
) -> None:
    pod = applications.started(namespace_limits.bounded(bounds, kubectl, monitored, wait_for))
    assert applications.monitored(pod)
    assert not init_containers(pod)


def test_a_quota_of_a_single_pod_admits_it(
    kubectl: Kubectl, applications: Applications, monitored: str, wait_for: WaitFor
) -> None:
    """The quota counts what its owner wrote."""
    tight = {"requests.cpu": "10m", "requests.memory": "16Mi", "limits.cpu": "50m", "limits.memory": "20Mi"}
    both = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "50m", "memory": "20Mi"}}
    bounds = Bounds("one", {"hard": {"pods": "1", **tight}}, both, "ResourceQuota")
    pod = applications.started(namespace_limits.bounded(bounds, kubectl, monitored, wait_for))
    assert applications.monitored(pod)
    assert kubectl.json("-n", monitored, "get", "resourcequota", "bounds")["status"]["used"] == {"pods": "1", **tight}
