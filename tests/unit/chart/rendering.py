"""The chart, rendered by Helm with other values than its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml
from deploy import generate

ISSUED: Final = {"certificates": {"issuer": "cert-manager"}}
"""Values by which cert-manager issues the webhook's certificate."""

needs_helm = pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")

Manifest = dict[str, Any]


PARTS: Final = {"csidriver": "csi-driver", "operator": "operator", "webhook": "webhook"}


def rendered(values: Mapping[str, Any] | None = None, *flags: str) -> list[Manifest]:
    """Without the CRD, which is long, unless the values want it."""
    text = generate.template(*flags, values=json.dumps({"crd": {"install": False}, **(values or {})}))
    found = yaml.load_all(text, yaml.CSafeLoader)
    return [manifest for manifest in found if manifest]


def refusal(values: Mapping[str, Any]) -> str:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(values)
    return str(caught.value.stderr)


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"]))
    return found


def container(manifests: list[Manifest], name: str) -> dict[str, Any]:
    pods = (m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment"))
    (found,) = (each for pod in pods for each in pod["containers"] if each["name"] == name)
    return dict(found)


def workload(manifests: list[Manifest], part: str) -> Manifest:
    (found,) = (
        m for m in manifests
        if m["kind"] in ("DaemonSet", "Deployment") and m["metadata"]["name"] == f"oneagent-{PARTS[part]}"
    )  # fmt: skip
    return dict(found["spec"])


def names(manifests: list[Manifest]) -> set[tuple[str, str]]:
    return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
