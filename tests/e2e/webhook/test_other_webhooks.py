"""Another webhook that adds containers, called before ours or after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract, pod_annotations, volume_attributes
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications, Pod, init_containers, untouched
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


def drop_volume(pod: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Change a pod like a policy against volumes of unknown drivers, in every call."""
    names = [volume["name"] for volume in pod["spec"].get("volumes") or ()]
    if contract.BIN_VOLUME not in names:
        return ()
    return ({"op": "remove", "path": f"/spec/volumes/{names.index(contract.BIN_VOLUME)}"},)


def move_sidecar(pod: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Change a pod like a service mesh whose native sidecar starts before all others."""
    containers = pod["spec"].get("initContainers") or []
    index = next((index for index, container in enumerate(containers) if container["name"] == "proxy"), 0)
    if not index:
        return ()
    moved = {"op": "add", "path": "/spec/initContainers/0", "value": containers[index]}
    return {"op": "remove", "path": f"/spec/initContainers/{index}"}, moved


# Webhooks are called in the order of their configurations' names; ours is oneagent-webhook.
@pytest.fixture(params=["before-mesh", "then-mesh"])
def mesh(request: pytest.FixtureRequest, kubectl: Kubectl, monitored: str) -> Iterator[str]:
    with serving(request.param, add_proxy, kubectl, monitored):
        yield request.param


@contextmanager
def serving(
    name: str, change: Callable[[dict[str, Any]], Sequence[dict[str, Any]]], kubectl: Kubectl, namespace: str
) -> Iterator[Webhook]:
    """Another webhook of a namespace's new pods, called again if others have changed them since."""
    with Webhook(Node.address, change) as webhook:
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "mesh.example.com",
                    "admissionReviewVersions": ["v1"],
                    "clientConfig": webhook.client_config(),
                    "rules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                    ],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "reinvocationPolicy": "IfNeeded",
                }
            ],
        }
        kubectl.apply(configuration)
        yield webhook
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
    assert init_containers(found) == ["mesh-init"]
    (ours,) = (one for one in found["spec"]["volumes"] if one["name"] == contract.BIN_VOLUME)
    assert sorted(ours["csi"]["volumeAttributes"][volume_attributes.CONTAINERS].split(",")) == ["proxy", "shop"]
    for container in found["spec"]["containers"]:
        assert len({mount["mountPath"] for mount in container["volumeMounts"]}) == len(container["volumeMounts"])
        assert [variable["name"] for variable in container["env"]].count("LD_PRELOAD") == 1
        assert f"containerName {container['name']}" in applications.read(
            found, oneagent.CONTAINER_CONF_PATH, container["name"]
        )


def test_an_injection_whose_volume_is_dropped_is_taken_out_as_a_whole(
    applications: Applications, kubectl: Kubectl, monitored: str, wait_for: WaitFor
) -> None:
    numbers = itertools.count()

    def dropped() -> Pod:
        """Create a pod until the API server uses the new configuration, which takes a moment."""
        pod = manifests.application(f"dropped-{next(numbers)}", monitored)
        found = applications.started(pod)
        return {} if contract.BIN_VOLUME in str(found["spec"]) else found

    with serving("then-policy", drop_volume, kubectl, monitored):
        found = wait_for(dropped, "the policy is asked")
    annotations = found["metadata"]["annotations"]
    assert untouched(found)
    assert annotations[pod_annotations.AGENT_INJECTED] == "false"
    assert annotations[pod_annotations.REASON] == "InjectionIncomplete"


def test_a_sidecar_that_is_moved_to_the_front_is_monitored(
    applications: Applications, kubectl: Kubectl, monitored: str, wait_for: WaitFor
) -> None:
    numbers = itertools.count()

    def moved() -> Pod:
        pod = manifests.application(f"moved-{next(numbers)}", monitored)
        pod["spec"]["initContainers"] = [
            manifests.container("prepare", "true"),
            manifests.container("proxy", restartPolicy="Always"),
        ]
        found = applications.started(pod)
        return found if init_containers(found) == ["proxy", "prepare"] else {}

    with serving("then-mesh", move_sidecar, kubectl, monitored):
        found = wait_for(moved, "the mesh is asked")
    assert all(applications.monitored(found, container) for container in ("shop", "proxy"))
    assert "containerName proxy" in applications.read(found, oneagent.CONTAINER_CONF_PATH, "proxy")
