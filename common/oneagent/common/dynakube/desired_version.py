"""The choice of the agent version that a DynaKube wants, the same on nodes and in the operator.

    an image             by its digest, whatever else is set
    a pinned version     of the operator's decision, or of the user's
    a package            its content decides
    the tenant's latest  or the current version while the tenant does not answer

The operator follows the tenant's latest up, never down: an older offer (a rollback, another answer of a mirror)
changes nothing. Users who want the older version pin it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto


class Origin(Enum):
    IMAGE = auto()
    PINNED = auto()
    PACKAGE = auto()
    TENANT = auto()


class Follow(Enum):
    """The direction in which the tenant's latest version replaces the current one."""

    ALWAYS = auto()
    UPWARDS = auto()
    NEVER = auto()


@dataclass(frozen=True, slots=True)
class Choice:
    origin: Origin
    version: str = ""
    """Empty if it is not known, or if the image's or the package's content decides it."""
    older_offered: bool = False
    """The tenant's latest is older than the version, which stays."""


def choose(
    *,
    image: str = "",
    pinned: str = "",
    package: str = "",
    latest: str = "",
    current: str = "",
    follow: Follow = Follow.ALWAYS,
) -> Choice:
    """Choose a version; `current` is the one that was chosen before."""
    if image:
        return Choice(Origin.IMAGE)
    if pinned:
        return Choice(Origin.PINNED, pinned)
    if package:
        return Choice(Origin.PACKAGE)
    if current and (follow is Follow.NEVER or not latest):
        return Choice(Origin.TENANT, current)
    if current and follow is Follow.UPWARDS and _sort_key(latest) < _sort_key(current):
        return Choice(Origin.TENANT, current, older_offered=True)
    return Choice(Origin.TENANT, latest)


def _sort_key(version: str) -> tuple[int, ...]:
    """Return all numbers of a version, including the build's time."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version))
