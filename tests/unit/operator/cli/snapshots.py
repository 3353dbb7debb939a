"""A healthy cluster, as objects of the API and as a snapshot; tests break one part of it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any, Final

import trustme
import yaml

from oneagent.common import identifiers, node_lease, node_report
from oneagent.common.dynakube import namespace_mapping
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot

NAMESPACE: Final = "dynatrace"
NOW: Final = 1_700_000_000.0
NODE: Final = "worker-1"
DRIVER_POD: Final = "oneagent-csi-driver-x"
IMAGE: Final = "registry.example.com/oneagent-csi:0.1.0"
BUNDLE: Final = base64.b64encode(trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes()).decode()
SECRET: Final = {
    "shop": frozenset({"apiToken"}),
    "oneagent-webhook-certs": frozenset({"tls.crt", "tls.key", "ca.crt"}),
    "oneagent-webhook-ca": frozenset({"ca.key"}),
}
SERVICE: Final = {"name": "oneagent-webhook", "namespace": NAMESPACE}
_SHIPPED: Final = Path("deploy/csi-driver.yaml")

Object = dict[str, Any]


def obj(kind: str, name: str, namespace: str = "", **more: Any) -> Object:
    metadata: Object = {"name": name, **more.pop("metadata", {})}
    return {"kind": kind, "metadata": {**metadata, "namespace": namespace} if namespace else metadata, **more}


def holding(*conditions: str) -> list[Object]:
    return [{"type": condition, "status": "True"} for condition in conditions]


def definition() -> Object:
    client = {"service": {"name": "oneagent-webhook"}, "caBundle": BUNDLE}
    spec = {
        "conversion": {"webhook": {"clientConfig": client}},
        "versions": [{"name": "v1beta6", "storage": True}, {"name": "v1beta5", "storage": False}],
    }
    status = {"conditions": holding("Established", "NamesAccepted"), "storedVersions": ["v1beta6"]}
    return obj("CustomResourceDefinition", "dynakubes.dynatrace.com", spec=spec, status=status)


def hooks(kind: str) -> Object:
    hook = {"name": "webhook.pod.dynatrace.com", "clientConfig": {"caBundle": BUNDLE, "service": SERVICE}}
    return obj(f"{kind}WebhookConfiguration", "oneagent-webhook", webhooks=[hook])


@functools.cache
def _shipped_driver() -> Object:
    (found,) = (one for one in yaml.load_all(_SHIPPED.read_text(), yaml.CSafeLoader) if one["kind"] == "CSIDriver")
    return dict(found)


def csi_driver() -> Object:
    """As it is shipped."""
    return copy.deepcopy(_shipped_driver())


def workload(kind: str, name: str, image: str = IMAGE) -> Object:
    spec = {"replicas": 1, "template": {"spec": {"containers": [{"name": "it", "image": image}]}}}
    return obj(kind, name, NAMESPACE, spec=spec, status={"readyReplicas": 1})


def pod(name: str, namespace: str = NAMESPACE, component: str = "", node: str = NODE, **more: Any) -> Object:
    labels = {"app.kubernetes.io/component": component} if component else {}
    spec = {"nodeName": node, "containers": [{"name": "server"}], **more.pop("spec", {})}
    status = {"phase": "Running", "conditions": holding("Ready"), **more.pop("status", {})}
    return obj("Pod", name, namespace, metadata={"labels": labels, **more}, spec=spec, status=status)


def node(name: str = NODE, **labels: str) -> Object:
    return obj("Node", name, metadata={"labels": labels}, spec={}, status={"conditions": holding("Ready")})


def csi_node(name: str = NODE, driver: str = identifiers.DRIVER_NAME) -> Object:
    return obj("CSINode", name, spec={"drivers": [{"name": driver}]})


def namespace(name: str, **labels: str) -> Object:
    return obj("Namespace", name, metadata={"labels": labels})


def owned(name: str = "shop") -> Object:
    return namespace(name, team="shop", **{namespace_mapping.LABEL: "shop"})


def dynakube(name: str = "shop", **conditions: str) -> Object:
    """One of namespaces with the label `team=NAME`; a condition has a status."""
    selector = {"namespaceSelector": {"matchLabels": {"team": name}}}
    told = [
        {"type": kind, "status": status, "message": f"{kind} is {status}", "lastTransitionTime": "2023-11-14T00:00:00Z"}
        for kind, status in {"Ready": "True", "Tokens": "True", **conditions}.items()
    ]
    spec = {"apiUrl": "https://tenant.example.com/api", "oneAgent": {"applicationMonitoring": selector}}
    created = {"creationTimestamp": "2023-11-14T00:00:00Z"}
    return obj("DynaKube", name, NAMESPACE, metadata=created, spec=spec, status={"conditions": told})


def status_json(**more: Any) -> Object:
    """Output of `oneagent-csi status` on a healthy node."""
    versions = [{"version": "1.290.0.20261001-120000", "state": "ready"}]
    return {"format": 1, "problems": [], "versions": versions, "volumes": [{"mounted": True}], "failures": [], **more}


def report(**more: Any) -> NodeReport:
    status = status_json(**more)
    return NodeReport(NODE, DRIVER_POD, node_report.status_from_json(status), status_json=status)


def lease(node: str = NODE, state: str = "ready", message: str = "", corrupt_at: float = 0) -> Object:
    """A node's report to the operator."""
    kube = node_lease.DynaKubeReport("shop", "1.290.0.20261001-120000", state, message)
    corruptions = (node_lease.Corruption(kube.version, int(corrupt_at), "lib.so (content)"),) if corrupt_at else ()
    return node_lease.manifest(node, NAMESPACE, node_lease.NodeReport((kube,), corruptions), None)


def healthy() -> ClusterSnapshot:
    return ClusterSnapshot(
        namespace=NAMESPACE,
        taken_at=NOW,
        definition=definition(),
        mutating=hooks("Mutating"),
        validating=hooks("Validating"),
        csi_driver=csi_driver(),
        csi_nodes=(csi_node(),),
        nodes=(node(),),
        namespaces=(namespace(NAMESPACE), owned()),
        deployments=(workload("Deployment", "oneagent-operator"), workload("Deployment", "oneagent-webhook")),
        daemon_sets=(workload("DaemonSet", "oneagent-csi-driver"),),
        pods=(pod(DRIVER_POD, component="csi-driver"), pod("oneagent-webhook-y", component="webhook")),
        dynakubes=(dynakube(),),
        secrets=SECRET,
        node_leases=(lease(),),
        reports=(report(),),
    )


def but(**changed: Any) -> ClusterSnapshot:
    return dataclasses.replace(healthy(), **changed)


def objects(cluster: ClusterSnapshot) -> list[Any]:
    """All of it, as the API server has it."""
    single = (cluster.definition, cluster.mutating, cluster.validating, cluster.csi_driver)
    lists = (
        *(cluster.csi_nodes, cluster.nodes, cluster.namespaces, cluster.deployments, cluster.daemon_sets),
        *(cluster.pods, cluster.dynakubes, cluster.node_leases),
    )
    return [*filter(None, single), *(one for several in lists for one in several)]


def scaled(replicas: int, ready: int) -> ClusterSnapshot:
    """A cluster with so many replicas of the webhook."""
    webhook = workload("Deployment", "oneagent-webhook")
    webhook["spec"]["replicas"], webhook["status"]["readyReplicas"] = replicas, ready
    return but(deployments=(workload("Deployment", "oneagent-operator"), webhook))
