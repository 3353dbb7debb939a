"""State of the installation: complete, half removed or absent; and deletions that do not end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from oneagent.common import agents, identifiers
from oneagent.common.dynakube import namespace_mapping
from oneagent.operator.certificates.settings import CertificateSettings
from oneagent.operator.cli import k8s_objects, snapshot
from oneagent.operator.cli.doctor import Finding, error
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot

INSTALLED: Final = "installed"
HALF_REMOVED: Final = "half removed"
NOT_INSTALLED: Final = "not installed"
_STUCK_SECONDS: Final = 60.0
"""A working operator removes its finalizer within seconds."""
_CERTIFICATES: Final = CertificateSettings(namespace="")
_OTHER_ISSUERS: Final = frozenset({"--certificates=cert-manager", "--certificates=none"})
_NO_FINALIZERS: Final = '{"metadata":{"finalizers":null}}'


def state(cluster: ClusterSnapshot) -> str:
    """Return `INSTALLED`, `HALF_REMOVED` or `NOT_INSTALLED`; unreadable parts count as installed."""
    if {"deployments", "daemon_sets"} & cluster.unread.keys():
        return INSTALLED
    if _workloads(cluster):
        return INSTALLED
    if other_namespace(cluster):
        return NOT_INSTALLED
    if {"definition", "mutating", "validating", "csi_driver"} <= cluster.unread.keys():
        return INSTALLED
    return HALF_REMOVED if list(remains(cluster)) else NOT_INSTALLED


def other_namespace(cluster: ClusterSnapshot) -> str:
    """Return the namespace that the webhook's configurations name, if it is not the one that was read."""
    for configuration in (cluster.mutating, cluster.validating):
        for hook in (configuration or {}).get("webhooks") or ():
            found = str(((hook.get("clientConfig") or {}).get("service") or {}).get("namespace") or "")
            if found not in ("", cluster.namespace):
                return found
    return ""


def installation(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name, found = "Installation", state(cluster)
    if found == NOT_INSTALLED and (other := other_namespace(cluster)):
        yield error(
            name,
            f"oneagent-csi is not installed in the namespace {cluster.namespace}: the webhook's configuration names "
            f"{other}",
            f"set --operator-namespace={other}",
        )
    elif found == NOT_INSTALLED:
        yield error(
            name,
            f"oneagent-csi is not installed in this cluster, as far as the namespace {cluster.namespace} and the "
            "cluster's own objects show",
            "install it by docs/install.md; or name its namespace with --operator-namespace",
        )
    elif found == HALF_REMOVED:
        commands = tuple(_removal(cluster))
        finding = error(
            name,
            f"oneagent-csi is half removed: operator, webhook and DaemonSet are gone from the namespace "
            f"{cluster.namespace}. Still there: {'; '.join(remains(cluster))}",
            "install it again; or finish its removal, by these commands in this order:"
            if commands
            else "restart the monitored workloads, or wait",
        )
        yield dataclasses.replace(finding, commands=commands)


def remains(cluster: ClusterSnapshot) -> Iterator[str]:
    """Yield what an installation without workloads has left behind."""
    if cluster.dynakubes:
        names = ", ".join(map(k8s_objects.name, cluster.dynakubes[:5]))
        more = f" and {len(cluster.dynakubes) - 5} more" if len(cluster.dynakubes) > 5 else ""
        yield f"DynaKubes ({names}{more})"
    if cluster.definition is not None:
        yield f"the CRD {snapshot.DEFINITION}"
    for kind, configuration in (("Mutating", cluster.mutating), ("Validating", cluster.validating)):
        if configuration is not None:
            yield f"the {kind}WebhookConfiguration {snapshot.WEBHOOK}"
    if cluster.csi_driver is not None:
        yield f"the CSIDriver {identifiers.DRIVER_NAME}"
    if labelled := sum(namespace_mapping.LABEL in k8s_objects.labels(namespace) for namespace in cluster.namespaces):
        yield f"the label {namespace_mapping.LABEL} of {labelled} namespace{'' if labelled == 1 else 's'}"
    if nodes := len(cluster.drivers):
        plural = "" if nodes == 1 else "s"
        yield f"the driver's pod on {nodes} node{plural}, until the last pod with its volume has ended"


def _removal(cluster: ClusterSnapshot) -> Iterator[str]:
    """Yield the commands that remove what remains, without an operator.

    A validating webhook without pods would refuse the DynaKubes' change, and a CRD does not go before its objects.
    """
    for kind, configuration in (("mutating", cluster.mutating), ("validating", cluster.validating)):
        if configuration is not None:
            yield f"kubectl delete {kind}webhookconfiguration {snapshot.WEBHOOK}"
    for kube in cluster.dynakubes:
        resource = k8s_objects.resource(k8s_objects.name(kube))
        if kube["metadata"].get("finalizers"):
            yield _drop_finalizers(cluster, resource)
        if not k8s_objects.is_deleting(kube):
            yield f"kubectl -n {cluster.namespace} delete {resource}"
    if any(namespace_mapping.LABEL in k8s_objects.labels(namespace) for namespace in cluster.namespaces):
        yield f"kubectl label namespaces --all {namespace_mapping.LABEL}-"
    if cluster.csi_driver is not None:
        yield f"kubectl delete csidriver {identifiers.DRIVER_NAME}"
    if cluster.definition is not None:
        yield f"kubectl delete crd {snapshot.DEFINITION}"


def _drop_finalizers(cluster: ClusterSnapshot, resource: str) -> str:
    return f"kubectl -n {cluster.namespace} patch {resource} --type=merge -p '{_NO_FINALIZERS}'"


def secrets(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Find Secrets of the webhook's certificates that do not exist."""
    if cluster.deployment(snapshot.WEBHOOK) is None:
        return
    names = [_CERTIFICATES.secret]
    if not _OTHER_ISSUERS & set(_arguments(cluster.deployment(snapshot.OPERATOR))):
        names.append(_CERTIFICATES.authority_secret)
    for secret in names:
        if secret not in cluster.secrets:
            yield error(
                "Secrets",
                f"the Secret {secret} of the webhook's certificates does not exist: a pod of the webhook that starts "
                "now can't serve",
                "check that the operator runs, which writes it within seconds; with cert-manager check the Certificate",
            )


def deletion(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Find DynaKubes, and the CRD, whose deletion waits for a finalizer."""
    operator = cluster.deployment(snapshot.OPERATOR)
    is_running = bool(operator and k8s_objects.status(operator).get("readyReplicas"))
    for kube in cluster.dynakubes:
        name = k8s_objects.name(kube)
        patch = _drop_finalizers(cluster, k8s_objects.resource(name))
        if _is_stuck(kube, cluster.taken_at):
            yield _stuck(kube, agents.describe_object(name), patch, cluster.taken_at, is_running=is_running)
    if cluster.definition is not None and not cluster.dynakubes and _is_stuck(cluster.definition, cluster.taken_at):
        yield error(
            "Deletion",
            f"the CRD {snapshot.DEFINITION} is being deleted, and does not go",
            f"kubectl get {snapshot.DEFINITION} --all-namespaces shows the DynaKubes that it waits for",
        )


def _stuck(kube: Object, title: str, patch: str, now: float, *, is_running: bool) -> Finding:
    minutes = k8s_objects.age_seconds(kube["metadata"]["deletionTimestamp"], now) / 60
    finalizers = ", ".join(kube["metadata"].get("finalizers") or ())
    reason = "the operator has not removed" if is_running else "no operator runs that removes"
    remedy = (
        "the operator's log has the reason"
        if is_running
        else f"start the operator again; or, if it is gone for good: {patch}"
    )
    return error(
        "Deletion", f"{title} has been in deletion for {minutes:.0f} min: {reason} its finalizer {finalizers}", remedy
    )


def _is_stuck(obj: Object, now: float) -> bool:
    stamp = obj["metadata"].get("deletionTimestamp")
    return bool(stamp and obj["metadata"].get("finalizers")) and k8s_objects.age_seconds(stamp, now) > _STUCK_SECONDS


def _workloads(cluster: ClusterSnapshot) -> list[Object]:
    names = (snapshot.OPERATOR, snapshot.WEBHOOK, snapshot.DRIVER)
    return [one for one in (*cluster.deployments, *cluster.daemon_sets) if k8s_objects.name(one) in names]


def _arguments(workload: Object | None) -> Iterator[str]:
    for container in (workload or {}).get("spec", {}).get("template", {}).get("spec", {}).get("containers") or ():
        yield from container.get("args") or ()
