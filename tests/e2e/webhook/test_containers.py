"""Containers of every sort: they are monitored where they can be, and start in any case."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract, pod_annotations, volume_attributes
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import APP_IMAGE, NAMESPACE
from tests.e2e.webhook.applications import LIBRARY, Applications, Pod, init_containers
from tests.fakes import elf
from tests.fakes.tenant import Tenant

SHOW_MAPS = "exec cat /proc/self/maps"


def test_a_native_sidecar_is_monitored_even_if_it_is_the_first_and_init_containers_are_left_alone(
    applications: Applications,
) -> None:
    pod = manifests.application("sidecars", applications.namespace)
    pod["spec"]["initContainers"] = [
        manifests.container("proxy", restartPolicy="Always"),
        manifests.container("prepare", SHOW_MAPS),
    ]
    pod["spec"]["containers"].append(manifests.container("classic"))
    found = applications.started(pod)
    assert init_containers(found) == ["proxy", "prepare"]
    assert all(applications.monitored(found, container) for container in ("proxy", "shop", "classic"))
    maps = applications.kubectl("logs", "sidecars", "-c", "prepare")
    assert "/cat" in maps
    assert "liboneagentproc" not in maps
    for container in ("proxy", "shop", "classic"):
        assert f"containerName {container}" in applications.read(found, oneagent.CONTAINER_CONF_PATH, container)


def test_init_containers_have_the_agent_if_the_pod_says_so(applications: Applications) -> None:
    pod = manifests.application("prepared", applications.namespace)
    pod["metadata"]["annotations"] = {pod_annotations.INJECT_INIT_CONTAINERS: "true"}
    pod["spec"]["initContainers"] = [manifests.container("prepare", f"{SHOW_MAPS} {oneagent.CONTAINER_CONF_PATH}")]
    found = applications.started(pod)
    assert applications.monitored(found)
    said = applications.kubectl("logs", "prepared", "-c", "prepare")
    assert "liboneagentproc" in said
    assert "containerName prepare" in said


def test_more_images_than_a_volumes_attributes_can_have_are_left_out_and_every_container_has_its_file(
    node: Node, kubectl: Kubectl, applications: Applications
) -> None:
    image = f"localhost/{'/'.join(['longest' * 5] * 6)}/app:e2e"
    names = [f"{number}-{'name' * 12}" for number in range(10)]
    pod = manifests.application("limit", applications.namespace)
    pod["spec"]["containers"] = [manifests.container(name) | {"image": image} for name in names]
    node.ctr("images", "tag", APP_IMAGE, image)
    try:
        with pytest.raises(KubectlError, match=r"agents report less of it, .* left out: image\."):
            kubectl("create", "--dry-run=server", "--warnings-as-errors", "-f", "-", stdin=json.dumps(pod))
        found = applications.started(pod, within=120)
        files = {name: applications.read(found, oneagent.CONTAINER_CONF_PATH, name) for name in names}
        assert all(applications.monitored(found, name) for name in names)
        applications.kubectl("delete", "pod", "limit", "--timeout=60s")
    finally:
        node.ctr("images", "remove", image)
    (volume,) = (each for each in found["spec"]["volumes"] if each["name"] == contract.BIN_VOLUME)
    attributes = volume["csi"]["volumeAttributes"]
    size = sum(map(len, (*attributes, *attributes.values())))
    assert volume_attributes.MAX_MAP_BYTES - 512 < size <= volume_attributes.MAX_MAP_BYTES
    kept = volume_attributes.with_prefix(attributes, volume_attributes.IMAGE)
    assert 0 < len(kept) < len(names)
    for name, text in files.items():
        lines = text.splitlines()
        assert f"containerName {name}" in lines
        assert (f"imageName {image}" in lines) is (name in kept)


def test_a_pod_without_requests_has_none_afterwards(applications: Applications) -> None:
    found = applications.started(manifests.application("best-effort", applications.namespace))
    assert applications.monitored(found)
    assert found["status"]["qosClass"] == "BestEffort"


def test_metadata_alone_needs_no_agent(applications: Applications) -> None:
    pod = manifests.application("enriched", applications.namespace)
    pod["metadata"]["annotations"] = {pod_annotations.INJECT_AGENT: "false"}
    found = applications.started(pod)
    assert LIBRARY not in applications.maps(found)
    assert applications.enrichment(found)["k8s.pod.uid"] == found["metadata"]["uid"]
    (volume,) = (each for each in found["spec"]["volumes"] if each["name"] == contract.BIN_VOLUME)
    assert volume["csi"]["volumeAttributes"]["mode"] == "conf"


def test_an_ephemeral_container_comes_into_a_monitored_pod(applications: Applications) -> None:
    pod = applications.started(manifests.application("debugged", applications.namespace))
    name = pod["metadata"]["name"]
    command = ("--image-pull-policy=Never", "--profile=restricted", "--", "sh", "-c", "sleep 1; echo here")
    applications.kubectl("debug", name, f"--image={APP_IMAGE}", "--container=look", "--target=shop", *command)
    assert applications.monitored(applications.running(f"metadata.name={name}"))


def test_what_a_container_preloads_by_itself_stays(applications: Applications) -> None:
    mine = "/lib/x86_64-linux-gnu/libutil.so.1"
    pod = manifests.application("preloading", applications.namespace)
    pod["spec"]["containers"][0]["env"] = [{"name": "LD_PRELOAD", "value": mine}]
    reading = manifests.container("reading", env=[{"name": "LD_PRELOAD", "valueFrom": {"configMapKeyRef": {
        "name": "preload", "key": "library"}}}])  # fmt: skip
    pod["spec"]["containers"].append(reading)
    metadata = {"name": "preload", "namespace": applications.namespace}
    applications.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"library": mine}})
    found = applications.started(pod)
    for container in ("shop", "reading"):
        maps = applications.maps(found, container)
        assert LIBRARY in maps
        assert "libutil" in maps


def test_programs_of_musl_are_monitored(applications: Applications) -> None:
    program = {"program": base64.b64encode(elf.waiting()).decode()}
    metadata = {"name": "musl", "namespace": applications.namespace}
    applications.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": program})
    pod = manifests.application("musl", applications.namespace)
    pod["spec"]["volumes"] = [{"name": "program", "configMap": {"name": "musl", "defaultMode": 0o755}}]
    pod["spec"]["containers"][0] |= {
        "command": ["/musl/program"],
        "volumeMounts": [{"name": "program", "mountPath": "/musl"}],
    }
    maps = applications.maps(applications.started(pod))
    assert "musl" in maps
    assert LIBRARY in maps


def test_a_read_only_root_file_system_and_any_user_will_do(applications: Applications) -> None:
    pod = manifests.application("read-only", applications.namespace, user=12345)
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = True
    found = applications.started(pod)
    assert applications.monitored(found)
    log = f"{oneagent.INSTALL_PATH}/agent/log/shop.log"
    applications.kubectl("exec", "read-only", "--", "sh", "-c", f"id -u > {log}")
    assert applications.read(found, log) == "12345\n"


def test_a_pod_with_a_user_namespace_is_monitored(kubectl: Kubectl, applications: Applications) -> None:
    (node,) = kubectl.json("get", "nodes")["items"]
    handlers = node["status"].get("runtimeHandlers") or ()
    if not any((handler.get("features") or {}).get("userNamespaces") for handler in handlers):
        pytest.skip(f"{node['status']['nodeInfo']['containerRuntimeVersion']} has no user namespaces")
    pod = manifests.application("own-users", applications.namespace)
    pod["spec"]["hostUsers"] = False
    found = applications.started(pod)
    assert applications.monitored(found)
    users = applications.read(found, "/proc/1/uid_map").split()
    assert users[0] == "0"
    assert users[1] != "0"
    assert "containerName shop" in applications.read(found, oneagent.CONTAINER_CONF_PATH)
    assert applications.enrichment(found)["k8s.pod.uid"] == found["metadata"]["uid"]
    assert "tenant" in applications.read(found, f"{oneagent.INSTALL_PATH}/agent/conf/ruxitagentproc.conf")
    assert written(applications, found) == "10001\n"
    refused = f"! touch {oneagent.INSTALL_PATH}/agent/x && ! touch {oneagent.INSTALL_PATH}/x"
    applications.kubectl("exec", "own-users", "--", "sh", "-c", refused)


def test_a_view_that_is_read_only_has_places_that_agents_write_to(
    dynakube: str, kubectl: Kubectl, applications: Applications, wait_for: WaitFor
) -> None:
    annotate = ("-n", NAMESPACE, "annotate", "dynakube", dynakube)
    pod = manifests.application("read-only-view", applications.namespace)
    kubectl(*annotate, "feature.dynatrace.com/injection-readonly-volume=true")
    try:
        wait_for(lambda: gets_read_only_view(kubectl, pod), "the webhook knows of the flag")
        found = applications.started(pod)
    finally:
        kubectl(*annotate, "feature.dynatrace.com/injection-readonly-volume-")
        pod["metadata"]["name"] = "as-before"
        wait_for(lambda: not gets_read_only_view(kubectl, pod), "the flag is gone")
    assert applications.monitored(found)
    assert written(applications, found) == "10001\n"
    refused = f"! touch {oneagent.INSTALL_PATH}/agent/x && ! touch {oneagent.INSTALL_PATH}/x"
    applications.kubectl("exec", "read-only-view", "--", "sh", "-c", refused)


def test_so_has_the_empty_one_in_its_place(
    dynakube: str, kubectl: Kubectl, applications: Applications, dynatrace: Tenant, wait_for: WaitFor
) -> None:
    never = "1.290.9.20261009-000000"
    kube, secret = manifests.dynakube(
        "bare", dynatrace.api_url, never, injection_readonly_volume="true", max_csi_mount_attempts="0"
    )
    kube["spec"]["oneAgent"]["applicationMonitoring"]["namespaceSelector"] = {"matchLabels": {"team": "bare"}}
    kubectl.apply(secret, kube)
    try:
        kubectl("label", "--overwrite", "namespace", applications.namespace, "team=bare")
        pod = manifests.application("no-agent", applications.namespace)
        wait_for(lambda: gets_read_only_view(kubectl, pod), "the webhook knows of the DynaKube")
        found = applications.started(pod)
        assert not applications.monitored(found)
        assert applications.is_quiet(found)
        assert written(applications, found) == "10001\n"
        kubectl("-n", applications.namespace, "delete", "pod", "no-agent", "--timeout=20s")
    finally:
        kubectl.delete(kube, secret)


def gets_read_only_view(kubectl: Kubectl, pod: dict[str, Any]) -> bool:
    stored = json.loads(kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod)))
    return any(volume["name"] == contract.DATA_VOLUME for volume in stored["spec"].get("volumes", ()))


def written(applications: Applications, pod: Pod) -> str:
    """What the application could write into a folder that is its agent's."""
    log = f"{oneagent.INSTALL_PATH}/log/shop.log"
    applications.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", f"id -u > {log}")
    return applications.read(pod, log)


def test_a_mount_below_the_directory_of_metadata_does_not_keep_a_container_from_starting(
    applications: Applications,
) -> None:
    """The directory is read-only, so the runtime cannot make a mount point in it."""
    own = {"name": "own", "namespace": applications.namespace}
    applications.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": {"team": "shop"}})
    path = f"{oneagent.ENRICHMENT_PATH}/team.properties"
    pod = manifests.application("nested-mount", applications.namespace)
    pod["spec"]["volumes"] = [{"name": "own", "configMap": {"name": "own"}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "own", "mountPath": path, "subPath": "team"}]
    pod["spec"]["containers"].append(manifests.container("enriched"))
    found = applications.started(pod)
    assert [applications.monitored(found, container) for container in ("shop", "enriched")] == [True, True]
    assert applications.read(found, path) == "shop"
    assert applications.enrichment(found, "enriched")["k8s.pod.uid"] == found["metadata"]["uid"]
    assert "team.properties" in applications.events("MountLeftOut")
