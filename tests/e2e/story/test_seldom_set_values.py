"""The story with values that are seldom set, an outage of all parts, and a chart that goes before its DynaKubes.

The webhook listens on the node and refuses pods while it is away. The tenant has a private CA and listens where only
the proxy reaches it, so whatever comes from it came by both defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
import yaml

from oneagent.common.dynakube import namespace_mapping
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.helm import Helm
from tests.e2e.installation import DAEMON_SET, Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story.administrator import DYNAKUBE, SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.resource_usage import pods
from tests.e2e.webhook.applications import Applications, Pod, is_ready
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes import packages
from tests.fakes.proxy import Proxy
from tests.fakes.tenant import Tenant

VERSION: Final = "1.277.0.20230914-094321"
COMPANY: Final = "company"
"""A ConfigMap with the CA, the volume that it is mounted by, and a variable."""
OTHERS: Final = "others"
"""A namespace that no DynaKube selects."""
_LABEL: Final = "example.com/owner"
_PARTS: Final = {"operator": "operator", "webhook": "webhook", "csidriver.provisioner": "csi-driver"}
_DEPLOYMENTS: Final = ("deployment/oneagent-operator", "deployment/oneagent-webhook")
_SETTINGS: Final = (
    # A node has one webhook with its ports.
    *("webhook.hostNetwork=true", "webhook.replicas=1", "webhook.port=10260", "webhook.metricsPort=10261"),
    *("webhook.failurePolicy=Fail", "operator.replicas=2", "priorityClass.create=true", "trustedCAs=company"),
    rf"commonLabels.{_LABEL.replace('.', chr(92) + '.')}=platform",
    *(f"{part}.extraVolumes[0].name=company" for part in ("operator", "webhook", "csidriver")),
    *(f"{part}.extraVolumes[0].configMap.name=company" for part in ("operator", "webhook", "csidriver")),
    *(f"{part}.extraVolumeMounts[0].name=company" for part in _PARTS),
    *(f"{part}.extraVolumeMounts[0].mountPath=/etc/company" for part in _PARTS),
    *(f"{part}.extraEnv[0].name=COMPANY" for part in _PARTS),
    *(f"{part}.extraEnv[0].value=example" for part in _PARTS),
)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(host=Node.address) as proxy:
        yield proxy


@pytest.fixture
def hidden_tenant(authority: trustme.CA, tmp_path: Path) -> Iterator[Tenant]:
    """On the node's loopback device, which pods do not share."""
    with Tenant(tls=authority) as tenant:
        tenant.release(VERSION, packages.build(tmp_path / "agent.zip", VERSION, library=packages.loadable()))
        yield tenant


@pytest.fixture
def plugin(cluster: Cluster, tmp_path: Path) -> Plugin:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Plugin(cluster, folder)


@pytest.fixture
def others(cluster: Cluster, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[Applications]:
    namespace = manifests.namespace(OTHERS)
    kubectl.apply(namespace)
    yield Applications(cluster, OTHERS, wait_for)
    kubectl.delete(namespace, wait=False)


def test_values_reach_the_processes_an_outage_ends_by_itself_and_remains_are_named_with_the_way_to_remove_them(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, others: Applications, hidden_tenant: Tenant,
    authority: trustme.CA, proxy: Proxy, plugin: Plugin, tmp_path: Path, wait_for: WaitFor,
) -> None:  # fmt: skip
    certificates = tmp_path / "company.pem"
    certificates.write_bytes(authority.cert_pem.bytes())
    company = f"kubectl -n dynatrace create configmap {COMPANY} --from-file=certs={certificates}"
    user.installs(*_SETTINGS, f"proxy.url=http://{proxy.address}", before=company)
    user.monitors(hidden_tenant.api_url)
    cluster.kubectl.apply(deployment("cart"))
    assert shop.monitored(pod_of("cart", cluster, wait_for))

    values_reach_the_processes(cluster, authority)
    all_objects_have_the_label(cluster)
    only_the_proxy_was_asked(cluster, proxy)
    the_webhook_is_away(cluster, shop, others)
    everything_is_deleted(cluster, shop, wait_for)
    the_node_is_restarted(cluster, shop, wait_for)
    a_container_crashes(cluster, user, plugin, wait_for)
    the_chart_goes_before_its_dynakubes(cluster, plugin, user, others, wait_for)


def values_reach_the_processes(cluster: Cluster, authority: trustme.CA) -> None:
    for path, part in _PARTS.items():
        for pod in pods(cluster, part):
            process = cluster.node.first_process(pod, path.rpartition(".")[2])
            assert b"COMPANY=example\0" in Path(f"/proc/{process}/environ").read_bytes()
            certs = Path(f"/proc/{process}/root/etc/company/certs")
            assert certs.read_bytes() == authority.cert_pem.bytes()
    classes = {part: {pod["spec"]["priorityClassName"] for pod in pods(cluster, part)} for part in _PARTS.values()}
    own = {"oneagent-csi"}
    assert classes == {"operator": own, "webhook": own, "csi-driver": {"system-node-critical"}}
    (webhook,) = pods(cluster, "webhook")
    assert webhook["status"]["podIP"] == Node.address


def all_objects_have_the_label(cluster: Cluster) -> None:
    manifest = Helm(cluster.control_plane.admin)("get", "manifest", "oneagent-csi")
    found = json.loads(cluster.kubectl("get", "-f", "-", "-o", "json", stdin=manifest))["items"]
    found += [pod for part in _PARTS.values() for pod in pods(cluster, part)]
    assert [obj for obj in found if obj["metadata"]["labels"].get(_LABEL) != "platform"] == []
    assert len(found) > len(list(yaml.load_all(manifest, yaml.CSafeLoader)))


def only_the_proxy_was_asked(cluster: Cluster, proxy: Proxy) -> None:
    """By the operator that leads and by the node."""
    lease = ("-n", NAMESPACE, "get", "lease", "oneagent-operator", "-o", "jsonpath={.spec.holderIdentity}")
    operators = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods(cluster, "operator")}
    assert len(operators) == 2
    (driver,) = (pod["status"]["podIP"] for pod in pods(cluster, "csi-driver"))
    assert {operators[cluster.kubectl(*lease)], driver} <= proxy.clients <= {*operators.values(), driver}


def the_webhook_is_away(cluster: Cluster, shop: ShopNamespace, others: Applications) -> None:
    """Monitored namespaces get no pods; others do, and namespaces can be made."""
    kubectl = cluster.kubectl
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=0")
    # It answers until it has drained.
    kubectl("-n", NAMESPACE, "wait", "pod", "-l", "app.kubernetes.io/component=webhook", "--for=delete")
    with pytest.raises(KubectlError, match="failed calling webhook"):
        shop.comes("refused")
    assert others.started(manifests.application("free", OTHERS))
    kubectl("create", "namespace", "made-meanwhile")
    kubectl("delete", "namespace", "made-meanwhile", "--wait=false")
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=1")
    roll_out(kubectl, "deployment/oneagent-webhook")


def everything_is_deleted(cluster: Cluster, shop: ShopNamespace, wait_for: WaitFor) -> None:
    """All pods of the product and of the application at once: the first ones start while no webhook answers."""
    cluster.kubectl("-n", SHOP, "delete", "pods", "--all", "--wait=false")
    cluster.kubectl("-n", NAMESPACE, "delete", "pods", "--all")
    roll_out(cluster.kubectl, *_DEPLOYMENTS, DAEMON_SET)
    assert shop.monitored(pod_of("cart", cluster, wait_for))


def the_node_is_restarted(cluster: Cluster, shop: ShopNamespace, wait_for: WaitFor) -> None:
    """Nothing on it is there before anything else."""
    before = restarts(pod_of("cart", cluster, wait_for))
    cluster.node.power_cut()
    cluster.node.start_containerd()
    cluster.node.start_kubelet()
    installed = Installed(cluster)
    wait_for(installed.views, "the driver has mounted the view again", within=90)
    wait_for(lambda: restarts(pod_of("cart", cluster, wait_for)) > before, "the application runs again", within=60)
    assert shop.monitored(pod_of("cart", cluster, wait_for))
    wait_for(shop.would_be_injected, "the API server reaches the webhook", within=60)


def a_container_crashes(cluster: Cluster, user: Administrator, plugin: Plugin, wait_for: WaitFor) -> None:
    """A wrong flag of one container: three of four are ready."""
    patch = [{"op": "add", "path": "/spec/template/spec/containers/3/args/-", "value": "--no-such-flag"}]
    cluster.kubectl("-n", NAMESPACE, "patch", DAEMON_SET, "--type=json", "-p", json.dumps(patch))

    def problem() -> dict[str, Any]:
        crashes = "3 of 4 containers are ready; livenessprobe CrashLoopBackOff"
        return next((one for one in plugin.json("status")["problems"] if crashes in one["sentence"]), {})

    found = wait_for(problem, "the status has a problem of the driver", 60, 0.5)
    words = "(exit code 2) invalid command line: unrecognized arguments: --no-such-flag"
    assert found["sentence"].endswith(f"livenessprobe CrashLoopBackOff {words}"), found
    assert "--no-such-flag" in user.types(found["remedy"])
    cluster.kubectl("-n", NAMESPACE, "rollout", "undo", DAEMON_SET)
    roll_out(cluster.kubectl, DAEMON_SET)


def the_chart_goes_before_its_dynakubes(
    cluster: Cluster, plugin: Plugin, user: Administrator, others: Applications, wait_for: WaitFor
) -> None:
    """Uninstall in the wrong order; the commands that `kubectl oneagent status` prints remove the rest."""
    kubectl = cluster.kubectl
    kubectl("-n", SHOP, "delete", "deployment", "cart", "--cascade=foreground")
    wait_for(lambda: not Installed(cluster).traces(), "nothing of any pod's volume is left")
    Helm(cluster.control_plane.admin)("uninstall", "oneagent-csi", "--wait")
    wait_for(lambda: not kubectl("-n", NAMESPACE, "get", "pods", "-o", "name"), "all pods are gone", within=60)
    kubectl.apply(manifests.application("late", SHOP))
    status = plugin.json("status")
    assert status["installation"] == "half removed"
    (finding,) = (one for one in status["problems"] if one["check"] == "Installation")
    for part in (f"DynaKubes ({DYNAKUBE})", "the CRD", f"the label {namespace_mapping.LABEL} of 1 namespace"):
        assert part in finding["sentence"], finding
    assert {one["check"] for one in plugin.findings()} == {"Installation"}
    for pod in (f"{SHOP}/late", f"{OTHERS}/free"):
        verdict = plugin.why(pod)["verdict"]
        assert (verdict["reason"], verdict["remedy"]) == ("NotInstalled", "kubectl oneagent status")

    user.types("\n".join(finding["commands"]), within=60)
    status = plugin.json("status")
    assert status["installation"] == "not installed"
    assert [one["check"] for one in status["problems"]] == ["Installation"]
    assert status["unread"] == []
    assert {one["check"] for one in plugin.findings()} == {"Installation"}
    assert plugin.why(f"{OTHERS}/free")["verdict"]["reason"] == "NotInstalled"
    labels = kubectl.json("get", "namespace", SHOP)["metadata"]["labels"]
    assert namespace_mapping.LABEL not in labels


def deployment(name: str) -> dict[str, Any]:
    """An application as a Deployment, which makes a pod again that was deleted."""
    pod = manifests.application(name, SHOP)
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pod["metadata"],
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def pod_of(name: str, cluster: Cluster, wait_for: WaitFor) -> Pod:
    """Return the ready pod of a Deployment. One that was refused is tried again after as long as it took so far."""

    def ready() -> Pod:
        found = cluster.kubectl.json("-n", SHOP, "get", "pods", "-l", f"app={name}")["items"]
        staying = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
        return next((pod for pod in staying if is_ready(pod)), {})

    return wait_for(ready, f"a pod of {name} is ready", within=90, every=0.2)


def restarts(pod: Pod) -> int:
    return sum(int(status["restartCount"]) for status in pod["status"]["containerStatuses"])


def roll_out(kubectl: Kubectl, *workloads: str) -> None:
    """Wait until all pods of the workloads are ready."""
    for workload in workloads:
        kubectl("-n", NAMESPACE, "rollout", "status", workload, "--timeout=60s", timeout=70)
