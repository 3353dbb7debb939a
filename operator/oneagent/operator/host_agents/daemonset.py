"""Builds the DaemonSet of a DynaKube's host agents.

Agents have the host's network, process tree and root file system. In the read-only modes they run as an
unprivileged user and mount that file system read-only. Their own files are in a volume of the CSI driver, or in a
directory of the host.

The object contains no secret. `DIGEST` is the hash of the rest, so that it is applied only after a change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import dynakube, identifiers
from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import variables
from oneagent.common.dynakube.mode import Mode
from oneagent.operator.host_agents import arguments, image, node_conflicts, secrets
from oneagent.operator.host_agents.inputs import HostAgentInputs
from oneagent.operator.host_agents.spec import HostAgent

MANAGER: Final = "oneagent-operator"
CONTAINER: Final = "dynatrace-oneagent"
SERVICE_ACCOUNT: Final = "dynatrace-dynakube-oneagent"
DIGEST: Final = "internal.oneagent.dynatrace.com/template-hash"
RESTART: Final = "internal.oneagent.dynatrace.com/secrets-hash"
ATTRIBUTES: Final = "internal.oneagent.dynatrace.com/resource-attributes"
"""Content of the file that agents read resource attributes from. A change of it restarts them."""
VERSION_LABEL: Final = "app.kubernetes.io/version"

_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "NET_ADMIN", "NET_RAW", "SETFCAP"),
    *("SETGID", "SETUID", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "SYS_RESOURCE"),
)
_USER: Final = 1000
_GRACE_SECONDS: Final = 80
# An agent is ready as soon as it runs. One that exits at once must not reach the next node.
_MIN_READY_SECONDS: Final = 10
_TOKEN_PATH: Final = "/var/lib/dynatrace/secrets/tokens/tenant-token"  # noqa: S105
_CERTIFICATES_PATH: Final = "/mnt/dynatrace/certs"
_ATTRIBUTES_FILE: Final = "dt_node_metadata.properties"
_STORAGE_PATH: Final = "/mnt/volume_storage_mount"
_ROOT_PATH: Final = "/mnt/root"


@dataclass(frozen=True, slots=True)
class Desired:
    """Inputs of the DaemonSet."""

    kube: dynakube.DynaKube
    agent: HostAgent
    choice: image.Choice
    inputs: HostAgentInputs
    api_version: str
    """Version of the DynaKube, for the owner reference."""
    has_driver: bool


def selector(dynakube: str) -> dict[str, str]:
    """Return the labels of a DynaKube's host agents; they do not depend on its mode."""
    return {
        "app.kubernetes.io/name": "oneagent",
        "app.kubernetes.io/component": "host-agent",
        "app.kubernetes.io/instance": dynakube,
    }


def metadata(kube: dynakube.DynaKube, name: str, api_version: str) -> dict[str, Any]:
    """Return metadata with labels and an owner reference to the DynaKube."""
    owner = {"apiVersion": api_version, "kind": "DynaKube", "name": kube.name, "uid": kube.uid, "controller": True}
    return {
        "name": name,
        "namespace": kube.namespace,
        "labels": {**selector(kube.name), "app.kubernetes.io/managed-by": MANAGER},
        "ownerReferences": [owner],
    }


def daemon_set(desired: Desired) -> dict[str, Any]:
    kube = desired.kube
    head = metadata(kube, secrets.name(kube), desired.api_version)
    head["labels"] |= _version_label(desired)
    whole = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": head,
        "spec": {
            "selector": {"matchLabels": selector(kube.name)},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": dict(desired.agent.rolling_update)},
            "minReadySeconds": _MIN_READY_SECONDS,
            "template": _template(desired),
        },
    }
    head["annotations"] = {DIGEST: _digest(whole)}
    return whole


def pull_secret(desired: Desired) -> str:
    """Return the name of the pull secret; empty for none."""
    from_tenant = desired.choice.image.startswith(f"{image.registry(desired.kube)}/")
    return desired.kube.pull_secret or (secrets.pull_name(desired.kube) if from_tenant else "")


def _version_label(desired: Desired) -> dict[str, str]:
    return {VERSION_LABEL: desired.choice.version} if desired.choice.version else {}


def _digest(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _template(desired: Desired) -> dict[str, Any]:
    kube, agent = desired.kube, desired.agent
    annotations = {
        **agent.annotations,
        "dynatrace.com/inject": "false",
        "kubectl.kubernetes.io/default-container": CONTAINER,
        "cluster-autoscaler.kubernetes.io/enable-ds-eviction": "false",
        RESTART: secrets.restart_digest(kube, desired.inputs, has_proxy=_has_proxy(desired)),
    }
    if agent.attributes:
        annotations[ATTRIBUTES] = "".join(f"{key}={value}\n" for key, value in agent.attributes.items())
    own = {**selector(kube.name), "app.kubernetes.io/managed-by": MANAGER, **_version_label(desired)}
    return {"metadata": {"labels": {**agent.labels, **own}, "annotations": annotations}, "spec": _pod(desired)}


def _pod(desired: Desired) -> dict[str, Any]:
    agent = desired.agent
    pod: dict[str, Any] = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "hostPID": True,
        "dnsPolicy": agent.dns_policy,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "affinity": _affinity(),
        "containers": [_container(desired)],
        "volumes": [volume for volume, _ in _volumes(desired)],
    }
    optional = {
        "nodeSelector": dict(agent.node_selector),
        "tolerations": [dict(toleration) for toleration in agent.tolerations],
        "priorityClassName": agent.priority_class,
        "imagePullSecrets": [{"name": name} for name in (pull_secret(desired),) if name],
    }
    return pod | {key: value for key, value in optional.items() if value}


def _affinity() -> dict[str, Any]:
    expressions = [
        {"key": node_conflicts.OS, "operator": "In", "values": ["linux"]},
        {"key": node_conflicts.ARCH, "operator": "In", "values": list(node_conflicts.ARCHITECTURES)},
    ]
    required = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _container(desired: Desired) -> dict[str, Any]:
    policy = desired.agent.pull_policy
    return {
        "name": CONTAINER,
        "image": desired.choice.image,
        **({"imagePullPolicy": policy} if policy else {}),
        "args": arguments.build(desired.kube, desired.agent, has_proxy=_has_proxy(desired)),
        "env": _env(desired),
        "resources": _resources(desired.agent.resources),
        "securityContext": _security(desired.agent),
        "volumeMounts": [mount for _, mount in _volumes(desired)],
    }


def _has_proxy(desired: Desired) -> bool:
    return desired.agent.uses_proxy and bool(desired.kube.proxy or desired.kube.proxy_secret)


def _env(desired: Desired) -> list[dict[str, Any]]:
    """Put the user's variables last; they replace the operator's of the same name."""
    secret = secrets.name(desired.kube)
    ours: list[dict[str, Any]] = [
        {"name": variables.NODE_NAME, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": variables.CLUSTER_ID, "value": desired.inputs.cluster_id},
        {"name": variables.TENANT, "value": str(desired.inputs.tenant)},
        _from_secret(variables.SERVER, secret, secrets.SERVER),
        _from_secret(variables.DEPLOYMENT, secret, secrets.METADATA),
        _from_secret(variables.OPERATOR_VERSION, secret, secrets.OPERATOR_VERSION),
    ]
    if _has_proxy(desired):
        ours.append(_from_secret("https_proxy", secret if desired.kube.proxy else desired.kube.proxy_secret, "proxy"))
    if desired.agent.read_only:
        ours.append({"name": "ONEAGENT_READ_ONLY_MODE", "value": "true"})
    if desired.agent.mode is not Mode.CLASSIC_FULL_STACK:
        ours.append({"name": "ONEAGENT_DISABLE_CONTAINER_INJECTION", "value": "true"})
    users = [dict(variable) for variable in desired.agent.env]
    named = {variable["name"] for variable in users}
    return [variable for variable in ours if variable["name"] not in named] + users


def _from_secret(variable: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _resources(given: Mapping[str, Any]) -> dict[str, Any]:
    """Add a CPU request unless the user sets CPU: the API server refuses one above the limit."""
    set_by_user = {**(given.get("requests") or {}), **(given.get("limits") or {})}
    if "cpu" in set_by_user:
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


def _volumes(desired: Desired) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield volumes, each with its mount."""
    kube, agent = desired.kube, desired.agent
    root = {"name": "host-root", "hostPath": {"path": "/"}}
    yield root, {"name": "host-root", "mountPath": _ROOT_PATH, **({"readOnly": True} if agent.read_only else {})}
    token = [{"key": secrets.TENANT_TOKEN, "path": secrets.TENANT_TOKEN}]
    secret = {"name": "tenant-token", "secret": {"secretName": secrets.name(kube), "items": token}}
    mount = {"name": "tenant-token", "mountPath": _TOKEN_PATH, "subPath": secrets.TENANT_TOKEN, "readOnly": True}
    yield secret, mount
    if agent.read_only:
        yield _storage(desired)
    if agent.attributes:
        yield _attributes()
    if kube.trusted_cas:
        items = [{"key": "certs", "path": "certs.pem"}]
        certificates = {"name": "certs", "configMap": {"name": kube.trusted_cas, "items": items}}
        yield certificates, {"name": "certs", "mountPath": _CERTIFICATES_PATH, "readOnly": True}


def _attributes() -> tuple[dict[str, Any], dict[str, Any]]:
    """Mount the file alone: the agent has others in its directory."""
    name = "resource-attributes"
    item = {"path": _ATTRIBUTES_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{ATTRIBUTES}']"}}
    path = f"{oneagent.ENRICHMENT_PATH}/{_ATTRIBUTES_FILE}"
    mount = {"name": name, "mountPath": path, "subPath": _ATTRIBUTES_FILE, "readOnly": True}
    return {"name": name, "downwardAPI": {"items": [item]}}, mount


def _storage(desired: Desired) -> tuple[dict[str, Any], dict[str, Any]]:
    name = "osagent-storage"
    if desired.has_driver:
        attributes = {"mode": "host", "dynakube": str(desired.kube.name)}
        source: dict[str, Any] = {"csi": {"driver": identifiers.DRIVER_NAME, "volumeAttributes": attributes}}
        return {"name": name, **source}, {"name": name, "mountPath": _STORAGE_PATH}
    # One subdirectory per tenant: agents of another tenant cannot use the files.
    source = {"hostPath": {"path": desired.agent.storage, "type": "DirectoryOrCreate"}}
    return {"name": name, **source}, {"name": name, "mountPath": _STORAGE_PATH, "subPath": str(desired.inputs.tenant)}
