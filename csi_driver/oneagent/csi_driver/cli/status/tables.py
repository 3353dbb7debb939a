"""Tables of a node's status for a terminal. Loads rich, 6 MiB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oneagent.common import printable
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import NodeStatus

_FILE_WIDTH = 160
_COLOURS = {
    "ready": "green",
    "mounted": "green",
    "failed": "red",
    "corrupt": "red",
    "missing": "red",
    "empty": "red",
    "not mounted": "red",
    "waiting": "yellow",
}


def print_status(status: NodeStatus, file: IO[str] | None = None) -> None:
    """Print the tables; without colours and in a fixed width where the output is no terminal."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_FILE_WIDTH, color_system=None)
    for title, header, rows in (
        ("Versions", ("version", "state", "size", "views", "requested by", "last use", "message"), _versions(status)),
        ("Volumes", ("pod", "DynaKube", "version", "state", "mount table", "since", "volume"), _volumes(status)),
        ("Failures", ("pod", "DynaKube", "attempts", "since", "pod runs without agent", "reason"), _failures(status)),
        ("DynaKubes", ("name", "tenant", "version", "in store", "condition", "since"), _dynakubes(status)),
    ):
        _table(console, title, header, rows)
    _disk(console, status)
    running = ((name, getattr(status.running, name)) for name in ("server", "provisioner"))
    words = {True: "running", False: "[red]not running[/]", None: "unknown"}
    console.print("[bold]Processes[/]  " + ", ".join(f"{name} {words[held]}" for name, held in running))
    moved = f"; corrupt ones were moved away: {_escape(', '.join(status.set_aside))}" if status.set_aside else ""
    console.print(f"[bold]Database[/]   {status.metadata}{moved}")
    if not status.problems:
        console.print("[green]Nothing needs attention.[/]")
        return
    console.print("[bold red]Needs attention[/]")
    for problem in status.problems:
        console.print(f"  - {_escape(problem)}", soft_wrap=True)


def _table(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header, box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(_coloured(cell) for cell in row))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"[bold]{title}[/]  none\n")


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell)
    return f"[{colour}]{cell}[/]" if colour else _escape(cell)


def _escape(text: str) -> str:
    return escape(printable.mask(text))


def _versions(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.versions:
        used = "now" if row.views else _ago(row.last_used_at, status.taken_at)
        size = _size(row.size_bytes) if row.size_bytes else ""
        yield (agent_version(row.version), row.state, size, str(row.views), ", ".join(row.wanted_by), used, row.message)


def _volumes(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.volumes:
        pod = f"{row.namespace}/{row.pod}" if row.pod else "?"
        here = {True: "mounted", False: "nothing", None: "?"}[row.mounted]
        if row.mounted is False and row.state == "mounted":
            here = "not mounted"
        state = f"{row.state} (host)" if row.mode == "host" else row.state
        yield (pod, row.dynakube, agent_version(row.version), state, here, _ago(row.since, status.taken_at), row.id)


def _failures(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.failures:
        since = _ago(row.first_failed_at, status.taken_at)
        runs = "yes" if row.empty else "no, it waits"
        yield (f"{row.namespace}/{row.pod}", row.dynakube, str(row.attempts), since, runs, row.reason)


def _dynakubes(status: NodeStatus) -> Iterable[Sequence[str]]:
    for row in status.dynakubes:
        in_store = "yes" if row.in_store else "no"
        since = _ago(row.since, status.taken_at)
        yield (row.name, row.tenant, agent_version(row.version), in_store, row.condition or "ok", since)


def _disk(console: Console, status: NodeStatus) -> None:
    disk = status.disk
    if disk is None:
        return
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
    console.print(f"[bold]Disk[/]       {shown}; {free}{inodes}")


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
