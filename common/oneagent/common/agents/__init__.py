"""Kinds of agents that pods can get: each has a profile, and everything that only it needs in a package of its own.

Another kind is another package with a `PROFILE`, and its line in `PROFILES`.
"""

from __future__ import annotations

import os
from typing import Final

from oneagent.common.agents import oneagent, opentelemetry
from oneagent.common.agents.profile import AgentProfile

PROFILES: Final[tuple[AgentProfile, ...]] = (oneagent.PROFILE, opentelemetry.PROFILE)
DEFAULT: Final = PROFILES[0]
"""The kind of a volume that names none, and of a tree without any agent's library"""
_BY_KIND: Final = {profile.kind: profile for profile in PROFILES}


def get(kind: str) -> AgentProfile:
    """Return the profile of a kind; `KeyError` for an unknown one."""
    return _BY_KIND[kind]


def of_dynakube(name: str) -> AgentProfile:
    """Return the kind of agent of a DynaKube, or of the object that became one, by its name."""
    named = (profile for profile in PROFILES if profile.name_prefix and name.startswith(profile.name_prefix))
    return next(named, DEFAULT)


def kind_of_object(dynakube: str) -> str:
    """Return the kind of the object in the API that a DynaKube is, or that became one, by its name."""
    return of_dynakube(dynakube).object_kind


def describe_object(dynakube: str, *, quoted: bool = False) -> str:
    """Return kind and name of that object, for messages."""
    profile = of_dynakube(dynakube)
    name = profile.name_of_object(dynakube)
    return f"{profile.object_kind} {name!r}" if quoted else f"{profile.object_kind} {name}"


def object_path(dynakube: str) -> str:
    """Return kind and name of that object, as `kubectl get` writes them: `OpenTelemetryInjection/shop`."""
    profile = of_dynakube(dynakube)
    return f"{profile.object_kind}/{profile.name_of_object(dynakube)}"


def short_name(dynakube: str) -> str:
    """Return the name of a DynaKube, but kind and name of an object of another kind, for tables."""
    return object_path(dynakube) if of_dynakube(dynakube).name_prefix else dynakube


def of_tree(tree: str | os.PathLike[str]) -> AgentProfile | None:
    """Return the kind of a version by its preload library; None if it has none."""
    return next((each for each in PROFILES if os.path.isfile(os.path.join(tree, each.preload_library))), None)
