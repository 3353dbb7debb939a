"""Environment variables of an injected container besides `LD_PRELOAD`.

A variable that the container already has is never changed: its owner set it on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common import agents
from oneagent.common.agents.profile import ContainerFacts
from oneagent.common.injection import pod_annotations
from oneagent.common.kubernetes.env import Entry
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.plan import Settings

_LABEL: Final = "metadata.labels['app.kubernetes.io/{}']"
_RELEASE: Final[Mapping[str, str]] = {
    "version": _LABEL.format("version"),
    "product": _LABEL.format("part-of"),
    "stage": "",
    "build-version": "",
}
"""Default field by the suffix of the variable and of the annotation that names another field"""

_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,20}/"
_FIELD: Final = re.compile(
    rf"metadata\.(name|namespace|uid|labels\['({_DOMAIN})?{_NAME}'\]|annotations\['({_DOMAIN})?{_NAME}'\])"
)
"""Valid paths of a `fieldRef`; with any other the API server would refuse the pod"""


def agent_variables(context: PodContext, dynakube: DynaKubeSettings, settings: Settings) -> list[Entry]:
    """Return variables with metadata that agents report."""
    facts = ContainerFacts(
        orchestration=dynakube.common.mode.orchestration,
        webhook_version=settings.version,
        cluster_id=context.cluster_id,
        network_zone=dynakube.common.network_zone,
        release_fields=tuple(_release(context)) if dynakube.is_on("label-version-detection") else (),
    )
    return list(dynakube.profile.variables(facts))


def is_ours(variable: Mapping[str, Any]) -> bool:
    """Return whether a variable is certainly by an injection of ours, of any kind of agent."""
    return any(profile.is_own_variable(variable) for profile in agents.PROFILES)


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
