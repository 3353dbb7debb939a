"""DynaKubes under validation, and the errors of their validation."""

from __future__ import annotations

from typing import Any, Final

from oneagent.common.dynakube.api import versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest

URL: Final = "https://abc12345.live.dynatrace.com/api"
FLAG: Final = "metadata.annotations[feature.dynatrace.com/{}]"
UNKNOWN: Final = validation.ClusterState(own_namespace="dynatrace")

MISSING: Final = (
    "The DynaKube's specification is missing the API URL or still has the example value set. "
    "Make sure you correctly specify the URL in your custom resource."
)
SEVERAL: Final = (
    "The DynaKube's specification tries to use multiple oneagent modes at the same time, which is not supported. "
)


def kube(
    spec: Manifest | None = None, name: str = "shop", version: str = versions.NEWEST, **flags: str
) -> dict[str, Any]:
    annotations = {f"feature.dynatrace.com/{flag.replace('_', '-')}": value for flag, value in flags.items()}
    return {
        "apiVersion": f"dynatrace.com/{version}",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": "dynatrace", **({"annotations": annotations} if annotations else {})},
        "spec": {"apiUrl": URL, **(spec or {})},
    }


def mode(name: str, **own: Any) -> Manifest:
    return {"oneAgent": {name: own}}


def errors(
    new: Manifest,
    old: Manifest | None = None,
    cluster: validation.ClusterState = UNKNOWN,
    others: tuple[Manifest, ...] = (),
) -> tuple[str, ...]:
    if others:
        cluster = validation.ClusterState(own_namespace="dynatrace", dynakubes=others, namespaces=cluster.namespaces)
    return validation.validate(new, old, cluster).errors


def only(found: tuple[str, ...]) -> str:
    assert len(found) == 1, found
    return found[0]
