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

from oneagent.common import identifiers, node_lease
from oneagent.common.injection import contract
from oneagent.operator.cli import k8s_objects, kubectl, node_reports, tls_check
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlNotFoundError, KubectlUnusableError, Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.tls_check import ServedCertificate

DEFINITION: Final = f"dynakubes.{identifiers.API_GROUP}"
INJECTIONS: Final = f"{identifiers.INJECTION_PLURAL}.{identifiers.INJECTION_GROUP}"
WEBHOOK: Final = "oneagent-webhook"
OPERATOR: Final = "oneagent-operator"
DRIVER: Final = "oneagent-csi-driver"
_SECRETS: Final = (
    'go-template={{range .items}}{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}{{"\\n"}}{{end}}'
)
_NAMESPACES: Final = 'go-template={{range .items}}{{.metadata.namespace}}{{"\\n"}}{{end}}'


FIELDS: Final = (
    *("version", "definition", "mutating", "validating", "csi_driver", "csi_nodes", "nodes", "namespaces"),
    *("deployments", "daemon_sets", "pods", "pending", "dynakubes", "node_leases", "secrets", "injection_secrets"),
)
"""Fields that are read of the API server."""


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
    node_leases: tuple[Object, ...] = ()
    reports: tuple[NodeReport, ...] = ()
    """Reports of the nodes that were chosen, see `NodeChoice`."""
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Unreadable fields, and the reasons."""

    def deployment(self, name: str) -> Object | None:
        return next((deployment for deployment in self.deployments if k8s_objects.name(deployment) == name), None)

    @property
    def daemon_set(self) -> Object | None:
        """The DaemonSet of the driver."""
        return next((daemon_set for daemon_set in self.daemon_sets if k8s_objects.name(daemon_set) == DRIVER), None)

    @property
    def states(self) -> dict[str, node_lease.NodeReport]:
        """The reports in the Leases of the nodes, by node."""
        return dict(map(node_lease.read, self.node_leases))

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


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """The nodes whose full report is read, each by a command in its driver's pod."""

    names: tuple[str, ...] = ()
    sample: int = 0
    """Without names: so many, first those with a problem, then evenly from all."""

    def choose(self, cluster: ClusterSnapshot) -> list[str]:
        """Return the names of nodes with a driver's pod."""
        nodes = sorted(cluster.drivers)
        if self.names:
            return [node for node in nodes if node in self.names]
        states = cluster.states
        failing = [node for node in nodes if _is_failing(cluster.drivers[node], states.get(node))][: self.sample]
        others = [node for node in nodes if node not in failing]
        room = self.sample - len(failing)
        step = max(len(others) / room, 1.0) if room else 1.0
        return sorted([*failing, *(others[int(number * step)] for number in range(min(room, len(others))))])

    def unknown(self, cluster: ClusterSnapshot) -> list[str]:
        """Return the names of which no node has a driver's pod."""
        return [name for name in self.names if name not in cluster.drivers]


def _is_failing(pod: Object, state: node_lease.NodeReport | None) -> bool:
    if state is None or not k8s_objects.is_ready(pod):
        return True
    return bool(state.corruptions) or any(kube.state in node_lease.PROBLEMS for kube in state.dynakubes)


def read(
    client: Kubectl,
    now: float,
    report_progress: Callable[[str], None] = lambda _: None,
    only: Collection[str] = (),
    nodes: NodeChoice = NodeChoice(),
    *,
    probes: bool = True,
) -> ClusterSnapshot:
    """Read everything, or `only` these fields, and the reports of `nodes`; `probes`: connect to the webhook's pods.

    `KubectlUnusableError` without access to the cluster.
    """
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
    existing = {k8s_objects.name(node) for node in cluster.nodes}
    for name in nodes.unknown(cluster):
        is_there = name in existing or "nodes" in unread
        unread[f"node {name}"] = f"node {name} has no pod of the driver" if is_there else f"there is no node {name}"
    chosen = {node: cluster.drivers[node] for node in nodes.choose(cluster)}
    reports = tuple(node_reports.read_statuses(client, chosen, report_progress))
    served = tuple(_probe_webhooks(client, cluster)) if probes else ()
    return dataclasses.replace(cluster, reports=reports, served=served)


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
        "dynakubes": partial(read_dynakubes, client),
        "node_leases": partial(client.list_own, "leases", f"--selector={node_lease.SELECTOR}"),
        "secrets": partial(_read_secret_keys, client),
        "injection_secrets": partial(_read_injection_secrets, client),
    }


def read_dynakubes(client: Kubectl) -> tuple[Object, ...]:
    """Read DynaKubes, and OpenTelemetryInjections in the form of one; any `KubectlError`.

    A cluster that does not know a kind has none of it.
    """
    own, injections = _list_known(client, DEFINITION), _list_known(client, INJECTIONS)
    if not injections:
        return own
    from oneagent.common.agents.opentelemetry import injection  # Needed only where there are such objects.

    return (*own, *map(injection.normalize_stored, injections))


def _list_known(client: Kubectl, kind: str) -> tuple[Object, ...]:
    try:
        return client.list_own(kind)
    except KubectlNotFoundError:
        return ()


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
