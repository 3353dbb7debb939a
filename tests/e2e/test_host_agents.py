"""Host agents on a real node: kubelet runs what the operator's DaemonSets say, with the driver's folder in them."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import yaml

from oneagent.common import dynakube as dynakubes
from oneagent.common.identifiers import FEATURE_PREFIX, TenantId, Version
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.host_agents import daemonset, reconciler
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.watches import Watches
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError, Manifest
from tests.e2e import installation
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import APP_IMAGE, NAMESPACE
from tests.unit.operator.host_agents import cases

REGISTRY: Final = "registry.invalid:5000"
OLD: Final = "1.277.0.20230914-094321"
NEW: Final = "1.278.0.20231014-094321"

Pods = Callable[[str], list[dict[str, Any]]]


class Do(Protocol):
    def __call__(self, name: str, version: str = ..., later: float = ...) -> ReconcileResult: ...


class Nobody:
    """A listener whom nothing concerns."""

    def dynakube_changed(self, name: object) -> None: ...
    def namespace_changed(self, name: str) -> None: ...
    def object_changed(self, kind: str, name: str) -> None: ...
    def cluster_restored(self) -> None: ...


@pytest.fixture(scope="session")
def definition(kubectl: Kubectl, wait_for: WaitFor) -> None:
    """The CRD, established: as long as it has no conditions at all, `kubectl wait` fails instead of waiting."""
    kubectl.apply(*installation.manifests("crd.yaml"))
    crd = ("get", "crd", "dynakubes.dynatrace.com")
    wait_for(lambda: kubectl.json(*crd)["status"].get("conditions"), "the CRD has conditions")


@pytest.fixture(scope="module", autouse=True)
def agent_images(
    definition: None,
    driver: Installed,
    cluster: Cluster,
    kubectl: Kubectl,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Both versions of an agent that sleeps, as the tenant's registry names them, and what installing brings along."""
    archive = tmp_path_factory.mktemp("agents") / "agents.tar"
    tags = [f"{REGISTRY}/linux/oneagent:{version}" for version in (OLD, NEW)]
    with_entrypoint(images.built()[APP_IMAGE], archive, tags, ["sh", "-c", "exec sleep infinity", "oneagent"])
    cluster.node.load_image(archive)
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    kubectl.apply({**account, "metadata": {"name": daemonset.SERVICE_ACCOUNT, "namespace": NAMESPACE}})


@pytest.fixture(scope="module")
def do(cluster: Cluster) -> Do:
    """Let the reconciler look once at a DynaKube, with what a watch would have seen by now."""
    agents = reconciler.HostAgentReconciler("0.1.0")

    def do(name: str, version: str = OLD, later: float = 0.0) -> ReconcileResult:
        return asyncio.run(look(agents, cluster.control_plane.admin, name, version, time.time() + later))

    return do


async def look(
    agents: reconciler.HostAgentReconciler, kubeconfig: Path, name: str, version: str, now: float
) -> ReconcileResult:
    server = api.Api(await api.connect(kubeconfig))
    try:
        resource, observed = api.dynakubes("v1beta6"), Cache()
        watches = Watches(server, NAMESPACE, resource, observed, Nobody())
        watching = asyncio.create_task(watches.run())
        await watches.wait_until_synced()
        watching.cancel()
        await asyncio.wait((watching,))
        facts = TenantState(
            polled_at=1.0,
            tenant=TenantId("abc12345"),
            tenant_token="token",
            endpoints=("https://ag.example",),
            latest=Version(version),
        )
        found = next(item for item in observed.dynakubes.values() if item["metadata"]["name"] == name)
        decided = {"OneAgentVersion": ReconcileResult("True", "", "", fields={"oneAgent": {"version": version}})}
        kube = dynakubes.from_object(found)
        verdict = await agents.reconcile(
            ReconcileContext(found, kube, NAMESPACE, server, observed, facts, now, decided)
        )
        return verdict or ReconcileResult("True", "None", "")
    finally:
        await server.close()


def dynakube(name: str, mode: str = "cloudNativeFullStack", **section: Any) -> Manifest:
    # Privileged takes what there is; the list of capabilities has some that root does not have on every machine.
    annotations = {f"{FEATURE_PREFIX}oneagent-privileged": "true"}
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"apiUrl": f"https://{REGISTRY}/api", "oneAgent": {mode: section}},
    }


@pytest.fixture(scope="module")
def pods(kubectl: Kubectl) -> Pods:
    def pods(name: str) -> list[dict[str, Any]]:
        found = kubectl.json("-n", NAMESPACE, "get", "pods", "-l", f"app.kubernetes.io/instance={name}")
        return list(found["items"])

    return pods


@pytest.fixture(scope="class")
def running_agent(kubectl: Kubectl, do: Do, wait_for: WaitFor) -> str:
    """A DynaKube whose agent runs on the node: it does once it has not ended for ten seconds."""
    kubectl.apply(dynakube("hosts"))
    wait_for(lambda: do("hosts").reason == reconciler.READY, "the agent is ready", within=90, every=0.5)
    return "hosts"


@pytest.fixture(scope="class", autouse=True)
def nothing_left(kubectl: Kubectl, wait_for: WaitFor) -> Iterator[None]:
    """What belongs to a DynaKube goes with it, by its owner reference."""
    yield
    labels = "app.kubernetes.io/component=host-agent"
    kubectl("-n", NAMESPACE, "delete", "dynakubes", "--all")
    wait_for(
        lambda: not kubectl.json("-n", NAMESPACE, "get", "daemonsets,secrets,pods", "-l", labels)["items"],
        "the DynaKubes' objects are gone",
        within=60,
    )


@pytest.mark.parametrize("case", cases.names())
def test_the_api_server_takes_the_daemon_set_of_every_case(kubectl: Kubectl, case: str) -> None:
    whole = yaml.safe_dump(cases.daemon_set(cases.load(case)))
    answer = kubectl("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=whole)
    assert json.loads(answer)["kind"] == "DaemonSet"


class TestAnAgent:
    def test_has_the_folder_that_the_driver_keeps_for_its_dynakube(
        self, kubectl: Kubectl, driver: Installed, running_agent: str, pods: Pods
    ) -> None:
        (pod,) = pods(running_agent)
        folder = driver.data.host_agents / running_agent
        (folder / "kept").write_text("for ever")
        inside = kubectl(
            "-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", "cat", "/mnt/volume_storage_mount/kept"
        )
        assert inside == "for ever"
        assert any(pod["metadata"]["uid"] in mount.target for mount in driver.views())

    def test_sees_the_host_and_its_tenant(self, kubectl: Kubectl, running_agent: str, pods: Pods) -> None:
        (pod,) = pods(running_agent)
        show = (
            "id -u; echo $DT_TENANT $DT_SERVER; cat /var/lib/dynatrace/secrets/tokens/tenant-token; echo; ls /mnt/root"
        )
        found = kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", "sh", "-c", show).split()
        assert found[:4] == ["1000", "abc12345", "https://ag.example", "token"]
        assert {"etc", "proc"} <= set(found)
        assert pod["status"]["podIP"] == pod["status"]["hostIP"]
        arguments = pod["spec"]["containers"][0]["args"]
        assert "--set-tenant=$(DT_TENANT)" in arguments

    def test_is_replaced_by_a_new_version_and_the_status_follows(
        self, do: Do, wait_for: WaitFor, running_agent: str, pods: Pods, driver: Installed
    ) -> None:
        (before,) = pods(running_agent)
        node, address = before["spec"]["nodeName"], before["status"]["hostIP"]
        first = {"podName": before["metadata"]["name"], "ipAddress": address}
        assert do(running_agent).fields["oneAgent"]["instances"] == {node: first}
        (driver.data.host_agents / running_agent / "kept").write_text("for ever")

        assert do(running_agent, NEW).reason == reconciler.ROLLING
        wait_for(
            lambda: do(running_agent, NEW).reason == reconciler.READY, "the new version is ready", within=120, every=1
        )
        (after,) = pods(running_agent)
        second = {"podName": after["metadata"]["name"], "ipAddress": address}
        assert first["podName"] != second["podName"]
        told = do(running_agent, NEW).fields["oneAgent"]
        assert told["instances"] == {node: second}
        assert (told["version"], told["imageID"]) == (NEW, f"{REGISTRY}/linux/oneagent:{NEW}")
        assert after["spec"]["containers"][0]["image"] == told["imageID"]
        assert (driver.data.host_agents / running_agent / "kept").read_text() == "for ever"

        # A tenant that says something older than what runs changes nothing.
        assert NEW in do(running_agent, OLD).message
        assert pods(running_agent)[0]["metadata"]["name"] == after["metadata"]["name"]


def test_what_somebody_changes_is_put_right_and_looking_again_changes_nothing(
    kubectl: Kubectl, do: Do, apply: Apply, wait_for: WaitFor
) -> None:
    apply(dynakube("still"))
    do("still")
    name = "still-oneagent"
    version = kubectl.json("-n", NAMESPACE, "get", "daemonset", name)["metadata"]["generation"]
    do("still")
    assert kubectl.json("-n", NAMESPACE, "get", "daemonset", name)["metadata"]["generation"] == version
    patch = json.dumps([{"op": "replace", "path": "/spec/template/spec/hostPID", "value": False}])
    kubectl("-n", NAMESPACE, "patch", "daemonset", name, "--type=json", "-p", patch)
    do("still")
    assert kubectl.json("-n", NAMESPACE, "get", "daemonset", name)["spec"]["template"]["spec"]["hostPID"] is True


def test_the_older_dynakube_keeps_the_nodes_that_both_select(
    kubectl: Kubectl, do: Do, apply: Apply, wait_for: WaitFor
) -> None:
    apply(dynakube("elder"))
    do("elder")
    elder = kubectl.json("-n", NAMESPACE, "get", "dynakube", "elder")
    created = datetime.datetime.fromisoformat(elder["metadata"]["creationTimestamp"]).timestamp()
    # The API server counts creation in seconds.
    wait_for(lambda: time.time() >= created + 1, "the second of its creation is over")
    apply(dynakube("another", "hostMonitoring"))
    verdict = do("another")
    assert (verdict.status, verdict.reason) == ("False", reconciler.NODES_TAKEN)
    assert "elder" in verdict.message
    assert sets(kubectl) == {"elder-oneagent"}

    apply(dynakube("another", "hostMonitoring", nodeSelector={"pool": "b"}))
    apply(dynakube("elder", nodeSelector={"pool": "a"}))
    do("elder")
    do("another")
    assert sets(kubectl) == {"elder-oneagent", "another-oneagent"}
    wait_for(lambda: do("another").reason == reconciler.NO_NODES, "the DaemonSet is seen to select no node")


def test_a_mode_without_host_agents_takes_everything_away(kubectl: Kubectl, do: Do, apply: Apply) -> None:
    apply(dynakube("modes"))
    do("modes")
    assert sets(kubectl) == {"modes-oneagent"}
    kubectl("-n", NAMESPACE, "delete", "dynakube", "modes", "--cascade=orphan")
    apply(dynakube("modes", "applicationMonitoring"))
    do("modes")
    assert sets(kubectl) == set()
    with pytest.raises(KubectlError, match="NotFound"):
        kubectl("-n", NAMESPACE, "get", "secret", "modes-oneagent")


def test_a_rollout_that_does_not_get_on_is_said_with_kubelets_reason(
    kubectl: Kubectl, do: Do, apply: Apply, wait_for: WaitFor, pods: Pods
) -> None:
    apply(dynakube("stuck", image="registry.invalid/nothing:1.0"))
    assert do("stuck").reason == reconciler.ROLLING
    wait_for(lambda: b"ImagePull" in json.dumps(pods("stuck")).encode(), "kubelet cannot pull", within=60)
    verdict = do("stuck", later=700)
    assert (verdict.status, verdict.reason) == ("False", reconciler.STUCK)
    assert "ImagePull" in verdict.message
    assert pods("stuck")[0]["spec"]["nodeName"] in verdict.message


def test_what_the_api_server_refuses_is_said_and_changes_nothing(kubectl: Kubectl, do: Do, apply: Apply) -> None:
    apply(dynakube("refused", tolerations=[{"key": "a", "operator": "Sometimes"}]))
    verdict = do("refused")
    assert (verdict.status, verdict.reason) == ("False", reconciler.REFUSED)
    assert "tolerations" in verdict.message
    assert sets(kubectl) == set()


def sets(kubectl: Kubectl) -> set[str]:
    labels = "app.kubernetes.io/component=host-agent"
    found = kubectl.json("-n", NAMESPACE, "get", "daemonsets", "-l", labels)["items"]
    return {item["metadata"]["name"] for item in found if "deletionTimestamp" not in item["metadata"]}


def with_entrypoint(source: Path, target: Path, tags: list[str], entrypoint: list[str]) -> None:
    """An image's archive again, under other names and with a program that takes arguments."""
    with tarfile.open(source) as before, tarfile.open(target, "w") as after:
        (told,) = json.load(member(before, "manifest.json"))
        config = json.load(member(before, told["Config"]))
        config["config"] = {**config["config"], "Entrypoint": entrypoint, "Cmd": None}
        for layer in told["Layers"]:
            after.addfile(before.getmember(layer), member(before, layer))
        written = {"agent.json": config, "manifest.json": [{**told, "Config": "agent.json", "RepoTags": tags}]}
        for name, value in written.items():
            info = tarfile.TarInfo(name)
            info.size = len(content := json.dumps(value).encode())
            after.addfile(info, io.BytesIO(content))


def member(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    assert found is not None
    return found
