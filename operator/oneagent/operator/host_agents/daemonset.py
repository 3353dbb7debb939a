"""What the DaemonSet of a DynaKube's host agents looks like.

Agents have the host's network, process tree and root file system. In the read-only modes they run as a user
without rights of its own, read that file system only, and keep what they have to keep in a folder that the CSI
driver gives them, or else in one of the host.

A secret never stands in it. `DIGEST` is of all the rest, so that it is applied only when something has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import dynakube, identifiers
from oneagent.operator.host_agents import image, node_conflicts, secrets, spec
from oneagent.operator.host_agents.inputs import HostAgentInputs
from oneagent.operator.host_agents.spec import HostAgent

MANAGER: Final = "oneagent-operator"
CONTAINER: Final = "dynatrace-oneagent"
SERVICE_ACCOUNT: Final = "dynatrace-dynakube-oneagent"
DIGEST: Final = "internal.oneagent.dynatrace.com/template-hash"
RESTART: Final = "internal.oneagent.dynatrace.com/secrets-hash"
VERSION_LABEL: Final = "app.kubernetes.io/version"

_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "NET_ADMIN", "NET_RAW", "SETFCAP"),
    *("SETGID", "SETUID", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "SYS_RESOURCE"),
)
_USER: Final = 1000
_GRACE_SECONDS: Final = 80
# An agent is ready as soon as it runs. One that ends at once must not get to the next node.
_SETTLE_SECONDS: Final = 10
_TOKEN_PATH: Final = "/var/lib/dynatrace/secrets/tokens/tenant-token"  # noqa: S105
_CERTIFICATES_PATH: Final = "/mnt/dynatrace/certs"
_STORAGE_PATH: Final = "/mnt/volume_storage_mount"
_ROOT_PATH: Final = "/mnt/root"


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that decides what the DaemonSet looks like."""

    kube: dynakube.DynaKube
    agent: HostAgent
    choice: image.Choice
    facts: HostAgentInputs
    api_version: str
    """Of the DynaKube, for the reference to its owner."""
    has_driver: bool


def selector(dynakube: str) -> dict[str, str]:
    """The labels by which a DynaKube's host agents are found; they don't change with its mode."""
    return {
        "app.kubernetes.io/name": "oneagent",
        "app.kubernetes.io/component": "host-agent",
        "app.kubernetes.io/instance": dynakube,
    }


def metadata(kube: dynakube.DynaKube, name: str, api_version: str) -> dict[str, Any]:
    """Of everything that host agents need: it goes with the DynaKube."""
    owner = {"apiVersion": api_version, "kind": "DynaKube", "name": kube.name, "uid": kube.uid, "controller": True}
    return {
        "name": name,
        "namespace": kube.namespace,
        "labels": {**selector(kube.name), "app.kubernetes.io/managed-by": MANAGER},
        "ownerReferences": [owner],
    }


def daemon_set(wanted: Wanted) -> dict[str, Any]:
    kube = wanted.kube
    head = metadata(kube, secrets.name(kube), wanted.api_version)
    head["labels"] |= _version_label(wanted)
    whole = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": head,
        "spec": {
            "selector": {"matchLabels": selector(kube.name)},
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": wanted.agent.max_unavailable},
            },
            "minReadySeconds": _SETTLE_SECONDS,
            "template": _template(wanted),
        },
    }
    head["annotations"] = {DIGEST: _digest(whole)}
    return whole


def pull_secret(wanted: Wanted) -> str:
    """The name of what kubelet pulls the image with; empty for nothing."""
    from_tenant = wanted.choice.image.startswith(f"{image.registry(wanted.kube)}/")
    return wanted.agent.pull_secret or (secrets.pull_name(wanted.kube) if from_tenant else "")


def _version_label(wanted: Wanted) -> dict[str, str]:
    return {VERSION_LABEL: wanted.choice.version} if wanted.choice.version else {}


def _digest(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _template(wanted: Wanted) -> dict[str, Any]:
    kube, agent = wanted.kube, wanted.agent
    annotations = {
        **agent.annotations,
        "dynatrace.com/inject": "false",
        "kubectl.kubernetes.io/default-container": CONTAINER,
        "cluster-autoscaler.kubernetes.io/enable-ds-eviction": "false",
        RESTART: secrets.restart_digest(kube, wanted.facts, has_proxy=_has_proxy(wanted)),
    }
    own = {**selector(kube.name), "app.kubernetes.io/managed-by": MANAGER, **_version_label(wanted)}
    return {"metadata": {"labels": {**agent.labels, **own}, "annotations": annotations}, "spec": _pod(wanted)}


def _pod(wanted: Wanted) -> dict[str, Any]:
    agent = wanted.agent
    pod: dict[str, Any] = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "hostPID": True,
        "dnsPolicy": agent.dns_policy,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "affinity": _affinity(),
        "containers": [_container(wanted)],
        "volumes": [volume for volume, _ in _volumes(wanted)],
    }
    optional = {
        "nodeSelector": dict(agent.node_selector),
        "tolerations": [dict(toleration) for toleration in agent.tolerations],
        "priorityClassName": agent.priority_class,
        "imagePullSecrets": [{"name": name} for name in (pull_secret(wanted),) if name],
    }
    return pod | {key: value for key, value in optional.items() if value}


def _affinity() -> dict[str, Any]:
    there = [
        {"key": node_conflicts.OS, "operator": "In", "values": ["linux"]},
        {"key": node_conflicts.ARCH, "operator": "In", "values": list(node_conflicts.ARCHITECTURES)},
    ]
    required = {"nodeSelectorTerms": [{"matchExpressions": there}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _container(wanted: Wanted) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": wanted.choice.image,
        "args": _args(wanted),
        "env": _env(wanted),
        "resources": _resources(wanted.agent.resources),
        "securityContext": _security(wanted.agent),
        "volumeMounts": [mount for _, mount in _volumes(wanted)],
    }


def _args(wanted: Wanted) -> list[str]:
    """Ours first: of an argument that is given twice the later one counts."""
    kube, agent = wanted.kube, wanted.agent
    from_nodes = "auto" if agent.mode == "classicFullStack" else "k8s-node-name"
    has_proxy = _has_proxy(wanted)
    ours = [
        # Empty ones make an agent forget what it had.
        f"--set-proxy={'$(https_proxy)' if has_proxy else ''}",
        f"--set-no-proxy={_literal(kube.no_proxy) if has_proxy else ''}",
        *([f"--set-network-zone={_literal(kube.network_zone)}"] if kube.network_zone else []),
        "--set-host-property=OperatorVersion=$(DT_OPERATOR_VERSION)",
        "--set-tenant=$(DT_TENANT)",
        "--set-server={$(DT_SERVER)}",
        f"--set-host-id-source={from_nodes}",
    ]
    if not agent.host_group:
        return [*ours, *agent.args]
    # The field is the one of the two that is meant for it.
    users = (argument for argument in agent.args if not argument.startswith(f"{spec.HOST_GROUP}="))
    return [*ours, f"{spec.HOST_GROUP}={_literal(agent.host_group)}", *users]


def _literal(value: str) -> str:
    """Kubernetes puts variables' values where it reads `$(NAME)`."""
    return value.replace("$(", "$$(")


def _has_proxy(wanted: Wanted) -> bool:
    return wanted.agent.uses_proxy and bool(wanted.kube.proxy or wanted.kube.proxy_secret)


def _env(wanted: Wanted) -> list[dict[str, Any]]:
    """The user's last, and in the place of ours with the same name."""
    secret = secrets.name(wanted.kube)
    ours: list[dict[str, Any]] = [
        {"name": "DT_K8S_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "DT_K8S_CLUSTER_ID", "value": wanted.facts.cluster_id},
        {"name": "DT_TENANT", "value": str(wanted.facts.tenant)},
        _from_secret("DT_SERVER", secret, secrets.SERVER),
        _from_secret("DT_DEPLOYMENT_METADATA", secret, secrets.METADATA),
        _from_secret("DT_OPERATOR_VERSION", secret, secrets.OPERATOR_VERSION),
    ]
    if _has_proxy(wanted):
        ours.append(_from_secret("https_proxy", secret if wanted.kube.proxy else wanted.kube.proxy_secret, "proxy"))
    if wanted.agent.read_only:
        ours.append({"name": "ONEAGENT_READ_ONLY_MODE", "value": "true"})
    if wanted.agent.mode != "classicFullStack":
        ours.append({"name": "ONEAGENT_DISABLE_CONTAINER_INJECTION", "value": "true"})
    users = [dict(variable) for variable in wanted.agent.env]
    named = {variable["name"] for variable in users}
    return [variable for variable in ours if variable["name"] not in named] + users


def _from_secret(variable: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _resources(given: Mapping[str, Any]) -> dict[str, Any]:
    """With a CPU request, unless the user says something of CPU: one above his limit would be refused."""
    said = {**(given.get("requests") or {}), **(given.get("limits") or {})}
    if "cpu" in said:
        return dict(given)
    return {**given, "requests": {"cpu": "100m", **(given.get("requests") or {})}}


def _security(agent: HostAgent) -> dict[str, Any]:
    context: dict[str, Any] = {"appArmorProfile": {"type": "Unconfined"}}
    if agent.privileged:
        context |= {"privileged": True}
    else:
        context |= {"privileged": False, "capabilities": {"drop": ["ALL"], "add": list(_CAPABILITIES)}}
    if agent.read_only:
        context |= {"runAsUser": _USER, "runAsGroup": _USER, "runAsNonRoot": True}
    if agent.seccomp_profile:
        context |= {"seccompProfile": {"type": "Localhost", "localhostProfile": agent.seccomp_profile}}
    return context


def _volumes(wanted: Wanted) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes, each with its mount."""
    kube, agent = wanted.kube, wanted.agent
    root = {"name": "host-root", "hostPath": {"path": "/"}}
    yield root, {"name": "host-root", "mountPath": _ROOT_PATH, **({"readOnly": True} if agent.read_only else {})}
    token = [{"key": secrets.TENANT_TOKEN, "path": secrets.TENANT_TOKEN}]
    secret = {"name": "tenant-token", "secret": {"secretName": secrets.name(kube), "items": token}}
    mount = {"name": "tenant-token", "mountPath": _TOKEN_PATH, "subPath": secrets.TENANT_TOKEN, "readOnly": True}
    yield secret, mount
    if agent.read_only:
        yield _storage(wanted)
    if kube.trusted_cas:
        items = [{"key": "certs", "path": "certs.pem"}]
        certificates = {"name": "certs", "configMap": {"name": kube.trusted_cas, "items": items}}
        yield certificates, {"name": "certs", "mountPath": _CERTIFICATES_PATH, "readOnly": True}


def _storage(wanted: Wanted) -> tuple[dict[str, Any], dict[str, Any]]:
    name = "osagent-storage"
    if wanted.has_driver:
        attributes = {"mode": "host", "dynakube": str(wanted.kube.name)}
        source: dict[str, Any] = {"csi": {"driver": identifiers.DRIVER_NAME, "volumeAttributes": attributes}}
        return {"name": name, **source}, {"name": name, "mountPath": _STORAGE_PATH}
    # Below it a folder for each tenant: what an agent keeps is of no use to another tenant's.
    source = {"hostPath": {"path": wanted.agent.storage, "type": "DirectoryOrCreate"}}
    return {"name": name, **source}, {"name": name, "mountPath": _STORAGE_PATH, "subPath": str(wanted.facts.tenant)}
