"""The objects that the tests create, as a user would write them."""

from __future__ import annotations

import base64
import datetime
from typing import Any, Final

import yaml

from oneagent.common import identifiers
from oneagent.common.agents import oneagent
from tests.cluster.kubectl import Manifest
from tests.fakes import tenant

NAMESPACE: Final = "dynatrace"
APP_IMAGE: Final = "localhost/app:e2e"
AGENT: Final = "/opt/dynatrace/oneagent-paas"
VOLUME: Final = "oneagent-bin"


def namespace(name: str, enforce: str = "restricted") -> Manifest:
    labels = {"pod-security.kubernetes.io/enforce": enforce}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def dynakube(name: str, api_url: str, version: str, **features: str) -> tuple[Manifest, Manifest]:
    """A DynaKube that pins a version, and the Secret with its token; `features` with `_` for `-`."""
    annotations = {identifiers.FEATURE_PREFIX + key.replace("_", "-"): value for key, value in features.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"apiUrl": api_url, "oneAgent": {"applicationMonitoring": {"version": version}}}
    return (
        {
            "apiVersion": "dynatrace.com/v1beta6",
            "kind": "DynaKube",
            "metadata": {**metadata, "annotations": annotations},
            "spec": spec,
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"apiToken": tenant.TOKEN}},
    )


def with_access(*objects: Manifest) -> tuple[Manifest, ...]:
    """The objects, and the right for nodes to read the Secrets and ConfigMaps among them: without an operator."""
    name = f"e2e-{objects[0]['metadata']['name']}"
    metadata = {"name": name, "namespace": NAMESPACE}
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": [f"{kind.lower()}s"], "resourceNames": names, "verbs": ["get"]}
        for kind in ("Secret", "ConfigMap")
        if (names := [one["metadata"]["name"] for one in objects if one["kind"] == kind])
    ]
    subjects = [{"kind": "ServiceAccount", "name": "oneagent-csi-driver", "namespace": NAMESPACE}]
    reference = {"apiGroup": group, "kind": "Role", "name": name}
    return (
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": subjects,
        },
        *objects,
    )


def as_yaml(*manifests: Manifest) -> str:
    return str(yaml.safe_dump_all(manifests, sort_keys=False))


def created(manifest: Manifest) -> float:
    """When the API server took an object, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(manifest["metadata"]["creationTimestamp"]).timestamp()


def application(
    name: str, namespace: str, *, user: int = 10001, command: str = "exec sleep infinity"
) -> dict[str, Any]:
    """An application as its owner writes it, fit for a restricted namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "shop"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container("shop", command)],
        },
    }


def container(name: str, command: str = "exec sleep infinity", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": APP_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more,
    }


def pod(
    name: str, namespace: str, dynakube: str, *, user: int = 10001, command: str = "exec sleep infinity"
) -> dict[str, Any]:
    """An application with the volume that the webhook adds."""
    made = application(name, namespace, user=user, command=command)
    made["spec"]["containers"][0] |= {
        "env": [{"name": "LD_PRELOAD", "value": f"{AGENT}/{oneagent.PRELOAD_LIBRARY}"}],
        "volumeMounts": [{"name": VOLUME, "mountPath": AGENT}],
    }
    attributes = {"mode": "app", "dynakube": dynakube}
    made["spec"]["volumes"] = [
        {"name": VOLUME, "csi": {"driver": identifiers.DRIVER_NAME, "volumeAttributes": attributes}},
    ]
    return made


def decoded(secret: Manifest) -> str:
    """All that a Secret holds."""
    return "\n".join(base64.b64decode(value).decode(errors="replace") for value in secret["data"].values())
