"""The JSON reports of one node: types of `oneagent-csi status -o json` and `oneagent-csi why -o json`.

The driver's command line writes them and `kubectl oneagent` reads them, perhaps of another release. So a reader
ignores keys that it does not know, and a key that is missing or has another type reads as empty. Keys are only ever
added; `FORMAT` changes if one has to go.

The names of DynaKubes are those of the driver, where an OpenTelemetryInjection has a prefix: `object` next to one has
the kind and name of the object in the API.

Times are RFC 3339 in JSON, in UTC and to the millisecond, and seconds since the epoch here; None for never or unknown.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from oneagent.common import agents

FORMAT: Final = 1
_TIMES: Final = frozenset({"taken_at", "since", "first_failed_at", "installed_at", "last_used_at"})
"""Fields that hold a time."""
T = TypeVar("T")


class FormatError(Exception):
    """The JSON is no report of this kind."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """An agent version on the node; `views` counts its mounts."""

    version: str
    state: str
    size_bytes: int
    views: int
    wanted_by: tuple[str, ...]
    installed_at: float | None
    last_used_at: float | None
    message: str
    downloaded_bytes: int = 0
    """Bytes that its download has brought so far"""


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """A volume of a pod: `state` is of the database, `mounted` of the mount table, None if that is unreadable."""

    id: str
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
    """A volume with failed mount attempts; `empty`: its attempts are used up and its pod runs without an agent."""

    volume: str
    namespace: str
    pod: str
    dynakube: str
    attempts: int
    first_failed_at: float | None
    empty: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DynaKubeStatus:
    """A DynaKube on the node; `condition` is the reason why its pods wait for their agent, empty if they need not."""

    name: str
    tenant: str
    version: str
    in_store: bool
    condition: str
    since: float | None
    configured: bool = True
    """There is a configuration for its version."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk below the data directory, and of its file system; 0 inodes in all where it has no limit of them."""

    store_bytes: int
    volumes_bytes: int
    logs_bytes: int
    trash_bytes: int
    tmp_bytes: int
    free_bytes: int
    total_bytes: int
    free_inodes: int = 0
    total_inodes: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """Processes that hold their lock on the data directory; None if that is unknown."""

    server: bool | None
    provisioner: bool | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """State of a node. `metadata` is ok, missing or unreadable; `set_aside` are corrupt databases, moved away."""

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
    """Parts of the status that could not be read."""
    problems: tuple[str, ...] = ()
    """Problems that an administrator has to solve."""


@dataclass(frozen=True, slots=True)
class Volume:
    """The pod's volume in the database; `condition` is the reason why its DynaKube's version is absent."""

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
    """The mount at the volume's target: layers as the mount table names them, topmost first."""

    upper: str | None
    lower: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodProcess:
    """A process of the pod that has the view in its mount table. None is for what is unreadable."""

    pid: int
    command: str
    mapped: bool | None
    """The view's preload library is mapped into it."""
    preload: bool | None
    """It was started with an `LD_PRELOAD` that names the library."""
    static: bool | None
    """Its program has no dynamic loader, which is what reads `LD_PRELOAD`."""


@dataclass(frozen=True, slots=True)
class PodEvidence:
    """Everything that the node shows of one pod."""

    namespace: str
    pod: str
    taken_at: float
    volume: Volume | None
    mounted: bool | None
    """Something is mounted at the target; None if the mount table is unreadable."""
    view: View | None
    is_corrupt: bool
    """The version below the view is known to be corrupt."""
    processes: tuple[PodProcess, ...]
    sees_pods: bool
    """Processes of pods are visible from here."""
    server_running: bool | None
    unreadable: tuple[str, ...] = ()
    """Parts of the evidence that could not be read."""
    corruption: str = ""
    """How the version is corrupt."""
    lacks_token: bool = False
    """The view's configuration has no tenant token: its agents cannot report."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A reason by its constant name, a sentence, and a remedy; no remedy where nothing has to be done."""

    reason: str
    sentence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class PodReport:
    """The diagnosis of one pod and the evidence for it."""

    evidence: PodEvidence
    diagnosis: Diagnosis


def status_to_json(status: NodeStatus) -> dict[str, Any]:
    """Return the JSON form of a node's status."""
    fields: dict[str, Any] = with_times(dataclasses.asdict(status))
    for row in fields["versions"]:
        row["wanted_by_objects"] = [agents.object_path(name) for name in row["wanted_by"]]
    for row in (*fields["volumes"], *fields["failures"], *fields["dynakubes"]):
        row["object"] = _object(row.get("dynakube", row.get("name")))
    return {"format": FORMAT} | fields


def status_from_json(report: Any) -> NodeStatus:
    """Read a node's status; `FormatError` if it lists no problems."""
    return read(NodeStatus, _checked(report, "problems"))


def pod_to_json(report: PodReport) -> dict[str, Any]:
    """Return the JSON form of a pod's diagnosis."""
    evidence: dict[str, Any] = with_times(dataclasses.asdict(report.evidence))
    if (volume := evidence["volume"]) is not None:
        volume["object"] = _object(volume["dynakube"])
    return {"format": FORMAT, "verdict": dataclasses.asdict(report.diagnosis)} | evidence


def _object(dynakube: str) -> str:
    """Return kind and name of the object in the API that a DynaKube is, or that became one; empty for none."""
    return agents.object_path(dynakube) if dynakube else ""


def pod_from_json(report: Any) -> PodReport:
    """Read a pod's diagnosis; `FormatError` if it has none."""
    fields = _checked(report, "verdict")
    return PodReport(read(PodEvidence, fields), read(Diagnosis, fields["verdict"]))


def with_times(value: Any) -> Any:
    """Return a JSON value with RFC 3339 texts in the place of seconds, in fields that hold times."""
    if isinstance(value, dict):
        return {
            key: _render_time(one) if key in _TIMES and isinstance(one, int | float) else with_times(one)
            for key, one in value.items()
        }
    return [with_times(one) for one in value] if isinstance(value, list | tuple) else value


def _render_time(seconds: float) -> str:
    text = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _parse_time(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _checked(report: Any, required: str) -> Mapping[str, Any]:
    if not isinstance(report, dict) or required not in report:
        raise FormatError(f"the report has no field {required!r}")
    return report


def read(kind: type[T], value: Any) -> T:
    """Return a dataclass from a JSON object, by the types of its fields; what it lacks is empty."""
    fields = value if isinstance(value, Mapping) else {}
    hints = _hints(typing.cast("Any", kind))
    return kind(**{name: _field(hint, _with_seconds(name, fields.get(name))) for name, hint in hints.items()})


def _with_seconds(name: str, value: Any) -> Any:
    return _parse_time(value) if name in _TIMES and isinstance(value, str) else value


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _field(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (some,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
        usable = isinstance(value, _json_type(some)) and not (some is not bool and isinstance(value, bool))
        return _field(some, value) if usable else None
    if typing.get_origin(hint) is tuple:
        (item, _) = typing.get_args(hint)
        return tuple(_field(item, one) for one in (value if isinstance(value, list) else ()))
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type", hint), value)
    if isinstance(value, bool) is not (hint is bool):
        return hint()
    return hint(value) if isinstance(value, _json_type(hint)) else hint()


def _json_type(hint: Any) -> Any:
    """The types that JSON may have for a field."""
    if dataclasses.is_dataclass(hint):
        return Mapping
    return int | float if hint is float else hint
