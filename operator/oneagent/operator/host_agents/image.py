"""Image of host agents: the user's own, else the tenant registry's in the decided version.

The status holds the decision, but may get lost. So the version of the DaemonSet counts as well: agents are never
downgraded, unless the user pins an older version.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from oneagent.common import dynakube
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.operator.host_agents import spec

_TAG: Final = re.compile(r":([A-Za-z0-9_][A-Za-z0-9._-]*)(@.*)?$")
_NUMBERS: Final = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]{8})-([0-9]{6})")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Choice:
    image: str
    version: str
    """Empty if unknown: a user's image without a tag."""
    note: str = ""
    """Addition to the condition's message."""


def choose(
    agent: spec.HostAgent, kube: dynakube.DynaKube, decided: str, running: str, public: str = ""
) -> Choice | None:
    """Choose from the decided version and the DaemonSet's, empty if unknown; None if both are.

    `public` is the decided image in a public registry, empty unless the DynaKube uses one.
    """
    if agent.image:
        return Choice(agent.image, agent.version or _tag(agent.image))
    if kube.uses_public_registry:
        return Choice(public, _tag(public)) if public else None
    if agent.version:
        return Choice(registry_image(kube, agent.version), agent.version)
    if _version_key(running) > _version_key(decided):
        own = f"{spec.section(agent.mode)}.version"
        note = f"newer than {decided or 'the version from the tenant'}; to go back, pin the older version in {own}"
        return Choice(registry_image(kube, running), running, note)
    return Choice(registry_image(kube, decided), decided) if decided else None


def registry(kube: dynakube.DynaKube) -> str:
    """Return host and port of the tenant's registry."""
    return urllib.parse.urlsplit(kube.api_url).netloc.lower()


def registry_image(kube: dynakube.DynaKube, version: str) -> str:
    path = urllib.parse.urlsplit(kube.api_url).path.removesuffix("/api")
    image = f"{registry(kube)}{path}/linux/oneagent:{version}"
    try:
        return spec.image("spec.apiUrl", image)
    except kubernetes_fields.FieldError as error:
        remedy = f"is no valid registry address; set an image in {spec.section(kube.mode)}.image"
        raise kubernetes_fields.FieldError("spec.apiUrl", kube.api_url, remedy) from error


def _tag(image: str) -> str:
    """Return the image's tag if it is a valid label value."""
    match = _TAG.search(image)
    return match[1] if match and _LABEL.fullmatch(match[1]) else ""


def _version_key(version: str) -> tuple[int, ...]:
    """Return the sort key of a version; an invalid one sorts first."""
    match = _NUMBERS.fullmatch(version)
    return tuple(int(number) for number in match.groups()) if match else ()
