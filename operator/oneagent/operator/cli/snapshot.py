"""Snapshot of the cluster, from which status and doctor draw their conclusions.

Everything is read in parallel. Unreadable parts are in `unread` with the reason, which differs from an object that
does not exist. Of Secrets only names and keys are read: kubectl prints nothing else of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.injection import contract
from oneagent.operator.cli import k8s_objects, kubectl, node_reports, tls_check
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlUnusableError, Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.tls_check import ServedCertificate

DEFINITION: Final = f"dynakubes.{identifiers.API_GROUP}"
WEBHOOK: Final = "oneagent-webhook"
OPERATOR: Final = "oneagent-operator"
DRIVER: Final = "oneagent-csi-driver"
_SECRETS: Final = (
    'go-template={{range .items}}{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}{{"\\n"}}{{end}}'
)
_NAMESPACES: Final = 'go-template={{range .items}}{{.metadata.namespace}}{{"\\n"}}{{end}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSnapshot:
    """State of the cluster. Fields that `unread` names are empty."""

    namespace: str
    """Namespace of the installation."""
    taken_at: float
    version: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Output of `kubectl version`."""
    definition: Object | None = None
    mutating: Object | None = None
    validating: Object | None = None
    csi_driver: Object | None = None
    csi_nodes: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()
    namespaces: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    daemon_sets: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    """Pods in the installation's namespace."""
    pending: tuple[Object, ...] = ()
    """Pods of any namespace that have not started."""
    dynakubes: tuple[Object, ...] = ()
    secrets: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """Keys of Secrets in the installation's namespace, by name, without values."""
    injection_secrets: tuple[str, ...] = ()
    """Namespaces with a Secret for pods without CSI."""
    served: tuple[ServedCertificate, ...] = ()
    """Certificates of the webhook's ready pods."""
    reports: tuple[NodeReport, ...] = ()
    """Reports of the nodes with a driver's pod."""
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Unreadable fields, and the reasons."""

    def deployment(self, name: str) -> Object | None:
        return next((deployment for deployment in self.deployments if k8s_objects.name(deployment) == name), None)

    @property
    def daemon_set(self) -> Object | None:
        """The DaemonSet of the driver."""
        return next((daemon_set for daemon_set in self.daemon_sets if k8s_objects.name(daemon_set) == DRIVER), None)

    @property
    def drivers(self) -> dict[str, Object]:
        """Pods of the driver by node."""
        return node_reports.driver_pods(self.pods)

    def component(self, name: str) -> tuple[Object, ...]:
        """Return the pods of a component."""
        return tuple(pod for pod in self.pods if k8s_objects.labels(pod).get(k8s_objects.COMPONENT) == name)

    @property
    def bundles(self) -> dict[str, str]:
        """CA bundles by which the API server trusts the webhook, as PEM text by place; empty where none is set."""
        bundles = {}
        for kind, obj in (("mutating", self.mutating), ("validating", self.validating)):
            for hook in (obj or {}).get("webhooks") or ():
                bundles[f"{kind} webhook {hook['name']}"] = _pem(hook.get("clientConfig") or {})
        if (conversion := (self.definition or {}).get("spec", {}).get("conversion")) is not None:
            bundles[f"conversion of {DEFINITION}"] = _pem((conversion.get("webhook") or {}).get("clientConfig") or {})
        return bundles


def read(
    client: Kubectl, now: float, report_progress: Callable[[str], None] = lambda _: None, only: Collection[str] = ()
) -> ClusterSnapshot:
    """Read everything, or `only` these fields; `KubectlUnusableError` without access to the cluster."""
    fields: dict[str, Any] = {}
    unread: dict[str, str] = {}
    with kubectl.thread_pool() as pool:
        readers = {field: read for field, read in _readers(client).items() if not only or field in only}
        for field, future in {field: pool.submit(read) for field, read in readers.items()}.items():
            try:
                fields[field] = future.result()
            except KubectlUnusableError:
                pool.shutdown(cancel_futures=True)
                raise
            except KubectlError as error:
                unread[field] = str(error)
            report_progress(field)
    if not fields:
        raise KubectlUnusableError(next(iter(unread.values())))
    cluster = ClusterSnapshot(namespace=client.namespace, taken_at=now, unread=unread, **fields)
    reports = tuple(node_reports.read_statuses(client, cluster.drivers, report_progress))
    return dataclasses.replace(cluster, reports=reports, served=tuple(_probe_webhooks(client, cluster)))


def _readers(client: Kubectl) -> dict[str, Callable[[], Any]]:
    """Return the function that reads each field."""
    return {
        "version": partial(_read_version, client),
        "definition": partial(client.get, "customresourcedefinitions", DEFINITION),
        "mutating": partial(client.get, "mutatingwebhookconfigurations", WEBHOOK),
        "validating": partial(client.get, "validatingwebhookconfigurations", WEBHOOK),
        "csi_driver": partial(client.get, "csidrivers", identifiers.DRIVER_NAME),
        "csi_nodes": partial(client.list_objects, "csinodes"),
        "nodes": partial(client.list_objects, "nodes"),
        "namespaces": partial(client.list_objects, "namespaces"),
        "deployments": partial(client.list_own, "deployments"),
        "daemon_sets": partial(client.list_own, "daemonsets"),
        "pods": partial(client.list_own, "pods"),
        "pending": partial(client.list_objects, "pods", "--all-namespaces", "--field-selector=status.phase=Pending"),
        "dynakubes": partial(client.list_own, DEFINITION),
        "secrets": partial(_read_secret_keys, client),
        "injection_secrets": partial(_read_injection_secrets, client),
    }


def _read_version(client: Kubectl) -> Mapping[str, Any]:
    """Read the versions of kubectl and the API server; any `KubectlError`."""
    versions: Mapping[str, Any] = json.loads(client("version", "-o", "json"))
    return versions


def _read_secret_keys(client: Kubectl) -> dict[str, frozenset[str]]:
    lines = (line.split() for line in client("get", "secrets", "-n", client.namespace, "-o", _SECRETS).splitlines())
    return {line[0]: frozenset(line[1:]) for line in lines if line}


def _read_injection_secrets(client: Kubectl) -> tuple[str, ...]:
    selector = f"--field-selector=metadata.name={contract.INJECTION_SECRET}"
    return tuple(client("get", "secrets", "--all-namespaces", selector, "-o", _NAMESPACES).split())


def _probe_webhooks(client: Kubectl, cluster: ClusterSnapshot) -> Iterable[ServedCertificate]:
    """Probe the webhook's ready pods with the first CA bundle; checks compare the bundles."""
    bundle = next((bundle for bundle in cluster.bundles.values() if bundle), "")
    ready = [k8s_objects.name(pod) for pod in cluster.component("webhook") if k8s_objects.is_ready(pod)]
    if not bundle or not ready:
        return ()
    host = f"{WEBHOOK}.{client.namespace}.svc"
    with kubectl.thread_pool() as pool:
        return list(pool.map(lambda pod: tls_check.probe(client, pod, bundle, host), ready))


def _pem(client: Mapping[str, Any]) -> str:
    return base64.b64decode(client.get("caBundle") or "").decode(errors="replace")
