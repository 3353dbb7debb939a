"""Containers of every sort: they are monitored where they can be, and start in any case."""

from __future__ import annotations

import base64
import json
from typing import Any

from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import APP_IMAGE, NAMESPACE
from tests.e2e.webhook.applications import LIBRARY, Applications, Pod, init_containers
from tests.fakes import elf
from tests.fakes.tenant import Tenant


def test_native_sidecars_are_monitored_and_init_containers_left_alone(applications: Applications) -> None:
    pod = manifests.application("sidecars", applications.namespace)
    pod["spec"]["initContainers"] = [
        manifests.container("prepare", "true"),
        manifests.container("proxy", restartPolicy="Always"),
    ]
    pod["spec"]["containers"].append(manifests.container("classic"))
    found = applications.started(pod)
    assert init_containers(found)[0] == contract.INIT_CONTAINER
    assert all(applications.monitored(found, container) for container in ("shop", "classic"))
    (prepare, proxy) = (c for c in found["spec"]["initContainers"] if c["name"] in ("prepare", "proxy"))
    assert "LD_PRELOAD" not in str(prepare)
    assert LIBRARY in str(proxy)


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
    log = f"{contract.INSTALL_PATH}/agent/log/shop.log"
    applications.kubectl("exec", "read-only", "--", "sh", "-c", f"id -u > {log}")
    assert applications.read(found, log) == "12345\n"


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
    refused = f"! touch {contract.INSTALL_PATH}/agent/x && ! touch {contract.INSTALL_PATH}/x"
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
    log = f"{contract.INSTALL_PATH}/log/shop.log"
    applications.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", f"id -u > {log}")
    return applications.read(pod, log)


def test_a_mount_below_the_directory_of_metadata_does_not_keep_a_container_from_starting(
    applications: Applications,
) -> None:
    """The directory is read-only, so the runtime cannot make a mount point in it."""
    own = {"name": "own", "namespace": applications.namespace}
    applications.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": {"team": "shop"}})
    path = f"{contract.ENRICHMENT_PATH}/team.properties"
    pod = manifests.application("nested-mount", applications.namespace)
    pod["spec"]["volumes"] = [{"name": "own", "configMap": {"name": "own"}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "own", "mountPath": path, "subPath": "team"}]
    pod["spec"]["containers"].append(manifests.container("enriched"))
    found = applications.started(pod)
    assert [applications.monitored(found, container) for container in ("shop", "enriched")] == [True, True]
    assert applications.read(found, path) == "shop"
    assert applications.enrichment(found, "enriched")["k8s.pod.uid"] == found["metadata"]["uid"]
    assert "team.properties" in applications.events("MountLeftOut")
