"""Environment variables of an injected container besides `LD_PRELOAD`.

A variable that the container already has is never changed: its owner set it on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common.injection import pod_annotations
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.plan import Settings

Entry = dict[str, Any]

_LABEL: Final = "metadata.labels['app.kubernetes.io/{}']"
_RELEASE: Final[Mapping[str, str]] = {
    "version": _LABEL.format("version"),
    "product": _LABEL.format("part-of"),
    "stage": "",
    "build-version": "",
}
"""Default field by the suffix of the variable and of the annotation that names another field"""

_DEPLOYMENT: Final = "DT_DEPLOYMENT_METADATA"
_DEPLOYMENT_START: Final = "orchestration_tech=Operator-"

_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,20}/"
_FIELD: Final = re.compile(
    rf"metadata\.(name|namespace|uid|labels\['({_DOMAIN})?{_NAME}'\]|annotations\['({_DOMAIN})?{_NAME}'\])"
)
"""Valid paths of a `fieldRef`; with any other the API server would refuse the pod"""


def literal(name: str, value: str) -> Entry:
    """Return a variable with a literal value, in which kubelet expands nothing."""
    return {"name": name, "value": value.replace("$", "$$")}


def field(name: str, path: str) -> Entry:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def agent_variables(context: PodContext, dynakube: DynaKubeSettings, settings: Settings) -> list[Entry]:
    """Return variables with metadata that agents report."""
    metadata = f"{_DEPLOYMENT_START}{dynakube.common.mode.orchestration};script_version={settings.version}"
    entries = [literal(_DEPLOYMENT, f"{metadata};orchestrator_id={context.cluster_id}")]
    if dynakube.common.network_zone:
        entries.append(literal("DT_NETWORK_ZONE", dynakube.common.network_zone))
    if dynakube.is_on("label-version-detection"):
        entries += [field(f"DT_RELEASE_{end.upper().replace('-', '_')}", path) for end, path in _release(context)]
    return entries


def is_deployment_metadata(variable: Mapping[str, Any]) -> bool:
    """Return whether a variable is one of ours, by any DynaKube and any version."""
    return variable["name"] == _DEPLOYMENT and str(variable.get("value")).startswith(_DEPLOYMENT_START)


def release_field_warnings(context: PodContext, dynakube: DynaKubeSettings) -> list[str]:
    """Return warnings about invalid release annotations of the namespace."""
    if not dynakube.is_on("label-version-detection"):
        return []
    paths = {end: context.namespace_annotations.get(pod_annotations.RELEASE + end, "") for end in _RELEASE}
    return [
        f"namespace {context.namespace}: annotation {pod_annotations.RELEASE}{end} is {path[:80]!r}, which is ignored: "
        "it must name a field such as metadata.labels['app.kubernetes.io/version']"
        for end, path in paths.items()
        if path and not _FIELD.fullmatch(path.strip())
    ]


def _release(context: PodContext) -> Iterator[tuple[str, str]]:
    for end, default in _RELEASE.items():
        annotation = context.namespace_annotations.get(pod_annotations.RELEASE + end, "").strip()
        path = annotation if _FIELD.fullmatch(annotation) else default
        if path:
            yield end, path
