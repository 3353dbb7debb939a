"""Why a pod has its agent, or has none: the shapes of what is found, and its form for programs.

`evidence` collects what is seen of a pod on its node, `verdicts` judges it. Times are seconds since the epoch, None
for never or not known.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any, Final

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


class Reason(enum.StrEnum):
    """Verdicts by a constant name, for programs."""

    MONITORED = "Monitored"
    PARTLY_MONITORED = "PartlyMonitored"
    NOT_LOADED = "NotLoaded"
    NO_PROCESS = "NoProcess"
    PROCESSES_NOT_SEEN = "ProcessesNotSeen"
    VERSION_DAMAGED = "VersionDamaged"
    NOT_MOUNTED = "NotMounted"
    EMPTY_VIEW = "NoAgentMounted"
    WAITING = "Waiting"
    NO_VOLUME = "NoVolume"
    NOT_KNOWN = "NotKnown"
    HOST_FOLDER = "HostFolder"


GOOD: Final = frozenset({Reason.MONITORED, Reason.HOST_FOLDER})


@dataclass(frozen=True, slots=True)
class Volume:
    """What the database says of the pod's volume; `condition` is why its DynaKube's version is not there."""

    id: str
    mode: str
    dynakube: str
    version: str
    state: str
    target: str
    attempts: int
    reason: str
    since: float | None
    condition: str


@dataclass(frozen=True, slots=True)
class View:
    """What is mounted at the volume's target: layers as the mount table names them, topmost first."""

    upper: str | None
    lower: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodProcess:
    """A process of the pod that has the view in its mount table. None is for what can't be read."""

    pid: int
    command: str
    mapped: bool | None
    """Whether the view's preload library is mapped into it"""
    preload: bool | None
    """Whether it was started with an `LD_PRELOAD` that names the library"""
    static: bool | None
    """Whether its program has no dynamic loader, which is what reads `LD_PRELOAD`"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is seen of a pod on its node."""

    namespace: str
    pod: str
    taken_at: float
    volume: Volume | None
    mounted: bool | None
    """Whether anything is mounted at the target; None if the mount table can't be read"""
    view: View | None
    damaged: bool
    """Whether anything is known to be wrong with the version that the view lies on"""
    processes: tuple[PodProcess, ...]
    sees_pods: bool
    """Whether processes of pods can be seen from here at all"""
    server_running: bool | None
    unreadable: tuple[str, ...] = ()
    """What could not be looked at"""
    damage: str = ""
    """What is wrong with the version"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`remedy` is empty where nothing has to be done."""

    reason: Reason
    sentence: str
    remedy: str = ""


def as_json(found: Evidence, verdict: Verdict) -> dict[str, Any]:
    """The form for programs."""
    return {"format": JSON_FORMAT, "verdict": dataclasses.asdict(verdict)} | dataclasses.asdict(found)
