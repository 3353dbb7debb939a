"""Another webhook that adds containers, called before ours or after it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications, Pod, init_containers
from tests.fakes.admission import Webhook


def add_proxy(pod: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """What a service mesh does: an init container at the very front, and a proxy."""
    if any(container["name"] == "proxy" for container in pod["spec"]["containers"]):
        return ()
    first = manifests.container("mesh-init", "true")
    proxy = {"op": "add", "path": "/spec/containers/-", "value": manifests.container("proxy")}
    if not pod["spec"].get("initContainers"):
        return proxy, {"op": "add", "path": "/spec/initContainers", "value": [first]}
    return proxy, {"op": "add", "path": "/spec/initContainers/0", "value": first}


# Webhooks are called in the order of their configurations' names; ours is oneagent-webhook.
@pytest.fixture(params=["before-mesh", "then-mesh"])
def mesh(request: pytest.FixtureRequest, kubectl: Kubectl, monitored: str) -> Iterator[str]:
    with Webhook(Node.address, add_proxy) as webhook:
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": request.param},
            "webhooks": [
                {
                    "name": "mesh.example.com",
                    "admissionReviewVersions": ["v1"],
                    "clientConfig": webhook.client_config(),
                    "rules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                    ],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": monitored}},
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "reinvocationPolicy": "IfNeeded",
                }
            ],
        }
        kubectl.apply(configuration)
        yield request.param
        kubectl.delete(configuration)


def test_what_it_adds_is_monitored_too_and_nothing_comes_twice(
    applications: Applications, mesh: str, wait_for: WaitFor
) -> None:
    def meshed() -> Pod:
        """A pod that the mesh was asked about: an API server takes a moment to heed a new configuration."""
        found = applications.started(manifests.application(f"meshed-{next(numbers)}", applications.namespace))
        return found if len(found["spec"]["containers"]) == 2 else {}

    numbers = itertools.count()
    found = wait_for(meshed, "the mesh is asked")
    assert {container: applications.monitored(found, container) for container in ("shop", "proxy")} == {
        "shop": True,
        "proxy": True,
    }
    assert Counter(init_containers(found)) == Counter(["mesh-init", contract.INIT_CONTAINER])
    (ours,) = (one for one in found["spec"]["initContainers"] if one["name"] == contract.INIT_CONTAINER)
    names = [variable["name"] for variable in ours["env"]]
    assert len(names) == len(set(names))
    for container in found["spec"]["containers"]:
        assert len({mount["mountPath"] for mount in container["volumeMounts"]}) == len(container["volumeMounts"])
        assert [variable["name"] for variable in container["env"]].count("LD_PRELOAD") == 1
        assert f"containerName {container['name']}" in applications.read(
            found, contract.CONTAINER_CONF_PATH, container["name"]
        )
