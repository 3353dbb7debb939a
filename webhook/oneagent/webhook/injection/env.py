"""Environment variables: how they are written, and those that an injected container gets besides `LD_PRELOAD`.

One that a container has already is never changed: whoever set it knew why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common.injection import pod_annotations
from oneagent.webhook.injection.dynakube_settings import Kube
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
"""By the ends of the variables' names and of the annotations that name another place."""

_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,20}/"
_FIELD: Final = re.compile(
    rf"metadata\.(name|namespace|uid|labels\['({_DOMAIN})?{_NAME}'\]|annotations\['({_DOMAIN})?{_NAME}'\])"
)
"""What a `fieldRef` may name; for any other the API server would refuse the pod."""


def plain(name: str, value: str) -> Entry:
    """A variable with just this value: nothing in it is expanded by kubelet."""
    return {"name": name, "value": value.replace("$", "$$")}


def field(name: str, path: str) -> Entry:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def of_agents(facts: PodContext, kube: Kube, settings: Settings) -> list[Entry]:
    """What agents report about where they run."""
    told = f"orchestration_tech=Operator-{kube.common.mode.orchestration};script_version={settings.version}"
    found = [plain("DT_DEPLOYMENT_METADATA", f"{told};orchestrator_id={facts.cluster_id}")]
    if kube.common.network_zone:
        found.append(plain("DT_NETWORK_ZONE", kube.common.network_zone))
    if kube.is_on("label-version-detection"):
        found += [field(f"DT_RELEASE_{end.upper().replace('-', '_')}", path) for end, path in _release(facts)]
    return found


def unusable_release_fields(facts: PodContext, kube: Kube) -> list[str]:
    """Warnings about a namespace's annotations."""
    if not kube.is_on("label-version-detection"):
        return []
    given = {end: facts.namespace_annotations.get(pod_annotations.RELEASE + end, "") for end in _RELEASE}
    return [
        f"namespace {facts.namespace}: annotation {pod_annotations.RELEASE}{end} is {path[:80]!r} and does nothing: it "
        "must name a field such as metadata.labels['app.kubernetes.io/version']"
        for end, path in given.items()
        if path and not _FIELD.fullmatch(path.strip())
    ]


def _release(facts: PodContext) -> Iterator[tuple[str, str]]:
    for end, usual in _RELEASE.items():
        given = facts.namespace_annotations.get(pod_annotations.RELEASE + end, "").strip()
        path = given if _FIELD.fullmatch(given) else usual
        if path:
            yield end, path
