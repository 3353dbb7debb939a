"""The object in the API that a DynaKube is, or that became one, under its own kind and name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from oneagent.common import agents, identifiers
from oneagent.common.dynakube.api import versions
from oneagent.common.kubernetes import events, types

if TYPE_CHECKING:
    from oneagent.common.dynakube import DynaKube

INJECTION_API: Final = f"{identifiers.INJECTION_GROUP}/{versions.INJECTION}"


def name_of(dynakube: str) -> str:
    return agents.of_dynakube(dynakube).name_of_object(dynakube)


def subject_of(obj: types.Object) -> events.Subject:
    """Return what Events are about, of an object as the caches have it."""
    subject = events.subject_of(obj)
    is_injection = subject.kind == identifiers.INJECTION_KIND
    return replace(subject, name=name_of(subject.name)) if is_injection else subject


def subject_of_dynakube(kube: DynaKube) -> events.Subject:
    # Any version names the same object; Events are found by its uid.
    api_version, kind = f"{identifiers.API_GROUP}/{versions.NEWEST}", "DynaKube"
    if kube.telemetry is not None:
        api_version, kind = INJECTION_API, identifiers.INJECTION_KIND
    return events.Subject(api_version, kind, kube.namespace, name_of(kube.name), kube.uid)
