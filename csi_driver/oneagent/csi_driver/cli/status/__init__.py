"""The state of one node: the shapes of it, and its form for programs. `survey` fills them in, `problems` judges.

Times are seconds since the epoch, None for never or not known.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import VolumeId

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
MISSING: Final = "missing"
"""A version that is recorded, wanted or mounted, but not in the store."""
UNRECORDED: Final = "unrecorded"
"""A view that is mounted without a row in the database."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`views` counts mounts of it."""

    version: Version
    state: str
    size_bytes: int
    views: int
    wanted_by: tuple[str, ...]
    installed_at: float | None
    last_used_at: float | None
    message: str


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """`state` is the database's word, `mounted` the mount table's: None if that can't be read."""

    id: VolumeId
    namespace: str
    pod: str
    dynakube: str
    mode: str
    version: str
    state: str
    mounted: bool | None
    read_only: bool
    target: str
    since: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A volume that failed to mount so far, or (`empty`) was given up: its pod runs without an agent."""

    volume: VolumeId
    namespace: str
    pod: str
    dynakube: str
    attempts: int
    first_failed_at: float | None
    empty: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DynaKubeStatus:
    """`condition` says why the wanted version is not there; empty when it is."""

    name: str
    tenant: str
    version: Version
    in_store: bool
    condition: str
    since: float | None


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk below the data folder, and of the file system that it is on."""

    store_bytes: int
    volumes_bytes: int
    logs_bytes: int
    trash_bytes: int
    tmp_bytes: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Running:
    """Whether somebody holds the process's lock on the data folder; None if that can't be told."""

    server: bool | None
    provisioner: bool | None


@dataclass(frozen=True, slots=True)
class Status:
    """`metadata` is ok, missing or unreadable; `set_aside` are damaged databases that were put aside."""

    data_dir: str
    taken_at: float
    metadata: str
    set_aside: tuple[str, ...]
    running: Running
    versions: tuple[VersionStatus, ...]
    volumes: tuple[VolumeStatus, ...]
    failures: tuple[Failure, ...]
    dynakubes: tuple[DynaKubeStatus, ...]
    disk: Disk | None
    unreadable: tuple[str, ...] = ()
    """What could not be looked at."""
    problems: tuple[str, ...] = ()
    """What needs a person."""


def as_json(status: Status) -> dict[str, Any]:
    """The form for programs."""
    return {"format": JSON_FORMAT} | dataclasses.asdict(status)
