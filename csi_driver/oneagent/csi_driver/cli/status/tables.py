"""Text of a node's status: what needs attention first, then tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from oneagent.common import agents, terminal
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import NodeStatus
from oneagent.common.terminal import Column, Screen

_STYLES: Final = {
    "ready": "green",
    "mounted": "green",
    "written": "green",
    "failed": "red",
    "corrupt": "red",
    "missing": "red",
    "empty": "red",
    "not mounted": "red",
    "waiting": "yellow",
}
_VERSIONS: Final = (
    Column("version"),
    Column("state", styles=_STYLES),
    Column("size", 3),
    Column("views", 2),
    Column("requested by", 4),
    Column("last use", 5),
    Column("message", 1, wraps=True),
)
_VOLUMES: Final = (
    Column("pod"),
    Column("state", 1, styles=_STYLES),
    Column("dynakube", 3),
    Column("version", 2),
    Column("mount table", 5, styles=_STYLES),
    Column("since", 4),
    Column("volume", 6),
)
_FAILURES: Final = (
    Column("pod"),
    Column("attempts", 2),
    Column("dynakube", 4),
    Column("since", 5),
    Column("runs without agent", 3),
    Column("reason", 1, wraps=True),
)
_DYNAKUBES: Final = (
    Column("dynakube"),
    Column("version", 1),
    Column("in store", 2),
    Column("tenant", 4),
    Column("since", 5),
    Column("condition", 3, wraps=True),
)
_LABEL: Final = 11


def lines(status: NodeStatus, screen: Screen) -> Iterator[str]:
    """Yield what needs attention, then the tables and the state of the node's parts."""
    if status.problems:
        yield screen.paint("Needs attention", "red")
        for problem in status.problems:
            yield from screen.wrap(problem, "  - ", "    ")
        yield ""
    for title, columns, rows in (
        ("versions", _VERSIONS, list(_versions(status))),
        ("volumes", _VOLUMES, list(_volumes(status))),
        ("failures", _FAILURES, list(_failures(status))),
        ("DynaKubes", _DYNAKUBES, list(_dynakubes(status))),
    ):
        yield from terminal.table(columns, rows, screen) if rows else [f"no {title}"]
        yield ""
    running = ((name, getattr(status.running, name)) for name in ("server", "provisioner"))
    words = {True: "running", False: "not running", None: "unknown"}
    moved = f"; corrupt ones were moved away: {', '.join(status.set_aside)}" if status.set_aside else ""
    for label, text in (
        ("disk", _disk(status)),
        ("processes", ", ".join(f"{name} {words[is_held]}" for name, is_held in running)),
        ("database", f"{status.metadata}{moved}"),
    ):
        if text:
            yield from screen.wrap(text, f"{label:<{_LABEL}}", " " * _LABEL)
    if not status.problems:
        yield screen.paint("Nothing needs attention.", "green")


def _versions(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.versions:
        used = "now" if row.views else _ago(row.last_used_at, status.taken_at)
        size = _size(row.size_bytes) if row.size_bytes else ""
        if row.downloaded_bytes:
            size = f"{_size(row.downloaded_bytes)} so far"
        wanted_by = ", ".join(map(agents.short_name, row.wanted_by))
        yield (agent_version(row.version), row.state, size, str(row.views), wanted_by, used, row.message)


def _volumes(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.volumes:
        pod = f"{row.namespace}/{row.pod}" if row.pod else "?"
        here = {True: "mounted", False: "nothing", None: "?"}[row.mounted]
        if row.mounted is False and row.state == "mounted":
            here = "not mounted"
        state = f"{row.state} (host)" if row.mode == "host" else row.state
        version, since = agent_version(row.version), _ago(row.since, status.taken_at)
        yield (pod, state, agents.short_name(row.dynakube), version, here, since, row.id)


def _failures(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.failures:
        since = _ago(row.first_failed_at, status.taken_at)
        runs = "yes" if row.empty else "no, it waits"
        pod, owner = f"{row.namespace}/{row.pod}", agents.short_name(row.dynakube)
        yield (pod, str(row.attempts), owner, since, runs, row.reason)


def _dynakubes(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.dynakubes:
        in_store = "yes" if row.in_store else "no"
        since = _ago(row.since, status.taken_at)
        # Without a tenant the store has the name in its place.
        tenant = row.tenant if row.tenant != row.name else ""
        name, version = agents.short_name(row.name), agent_version(row.version)
        yield (name, version, in_store, tenant, since, row.condition or "ok")


def _disk(status: NodeStatus) -> str:
    disk = status.disk
    if disk is None:
        return ""
    parts = {
        "agent store": disk.store_bytes,
        "written by pods": disk.volumes_bytes,
        "kept logs": disk.logs_bytes,
        "trash": disk.trash_bytes,
        "downloads": disk.tmp_bytes,
    }
    shown = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    free = f"{_size(disk.free_bytes)} of {_size(disk.total_bytes)} free"
    inodes = f", {disk.free_inodes:,} of {disk.total_inodes:,} inodes" if disk.total_inodes else ""
    return f"{shown}; {free}{inodes}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return ""
    seconds = max(0, round(now - at))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
