"""Which image host agents run: the user's own, else the tenant registry's of the version that was decided.

The decision is kept in the status, which may get lost. What runs is the second witness: nobody gets an older agent
than he has, unless a pinned version asks for it.
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
    """Empty if nobody knows: an image of the user's without a tag."""
    note: str = ""
    """What a person should know of the choice."""


def choose(agent: spec.HostAgent, kube: dynakube.DynaKube, decided: str, running: str) -> Choice | None:
    """Of the version decided and the one of the DaemonSet, empty if unknown; None: not known yet."""
    if agent.image:
        return Choice(agent.image, agent.version or _tag(agent.image))
    if agent.version:
        return Choice(registry_image(kube, agent.version), agent.version)
    if _order(running) > _order(decided):
        own = f"{spec.section(agent.mode)}.version"
        note = f"which is newer than {decided or 'what the tenant has said'}: to go back, pin the older one in {own}"
        return Choice(registry_image(kube, running), running, note)
    return Choice(registry_image(kube, decided), decided) if decided else None


def registry(kube: dynakube.DynaKube) -> str:
    """Host and port of the tenant's registry."""
    return urllib.parse.urlsplit(kube.api_url).netloc.lower()


def registry_image(kube: dynakube.DynaKube, version: str) -> str:
    path = urllib.parse.urlsplit(kube.api_url).path.removesuffix("/api")
    image = f"{registry(kube)}{path}/linux/oneagent:{version}"
    try:
        return spec.image("spec.apiUrl", image)
    except kubernetes_fields.FieldError as error:
        remedy = f"no registry can have this address; name an image in {spec.section(kube.mode)}.image"
        raise kubernetes_fields.FieldError("spec.apiUrl", kube.api_url, remedy) from error


def _tag(image: str) -> str:
    """The image's tag, if it can be a label."""
    found = _TAG.search(image)
    return found[1] if found and _LABEL.fullmatch(found[1]) else ""


def _order(version: str) -> tuple[int, ...]:
    """To compare by; what is no version is older than all that are."""
    found = _NUMBERS.fullmatch(version)
    return tuple(int(number) for number in found.groups()) if found else ()
