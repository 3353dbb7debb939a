"""Tables and progress bars. The only module here that imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from oneagent.common import printable
from oneagent.operator.cli.doctor import DoctorReport, Severity
from oneagent.operator.cli.status import ClusterStatus, NodeRow

_FILE_WIDTH: Final = 160
_COLOURS: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def print_status(status: ClusterStatus, file: IO[str] | None = None) -> None:
    """Print a table of nodes, one of DynaKubes, and the problems."""
    console = _console(file)
    header = ("node", "driver", "registered", "versions", "views", "failures", "free", "problems")
    console.print(_table("Nodes", header, map(_node, status.nodes)))
    kubes = ((row.name, row.mode, row.version, "yes" if row.ready else "no", row.message) for row in status.dynakubes)
    console.print(_table("DynaKubes", ("name", "mode", "version", "ready", "message"), kubes))
    problems = [f"node {row.node}: {problem}" for row in status.nodes for problem in row.problems]
    for problem in (*problems, *status.unread):
        console.print(f"  - {_escape(problem)}", soft_wrap=True)
    if status.is_healthy:
        console.print("[green]Nothing needs attention.[/]")


def print_doctor_report(report: DoctorReport, file: IO[str] | None = None) -> None:
    """Print each finding with its remedy below."""
    console = _console(file)
    for finding in report.findings:
        colour = _COLOURS[finding.severity]
        console.print(f"[{colour}]{finding.severity:<8}[/] {_escape(finding.sentence)}", soft_wrap=True)
        if finding.remedy:
            console.print(f"         what to do: {_escape(finding.remedy)}", soft_wrap=True)
    worse = [finding for finding in report.findings if finding.severity != Severity.NOTE]
    colour = "yellow" if worse else "green"
    result = f"{len(worse)} need attention" if worse else "nothing needs attention"
    console.print(f"[{colour}]Checks: {len(report.checks)}, nodes with a driver: {report.nodes}; {result}.[/]")


@contextlib.contextmanager
def progress(title: str) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Show a bar on stderr, if that is a terminal; yields functions that report a step, and add further steps."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def report_progress(step: str) -> None:
            bar.update(task, advance=1, description=f"{title}: {_escape(step)}")

        def add_steps(steps: int) -> None:
            bar.update(task, total=(bar.tasks[0].total or bar.tasks[0].completed) + steps)

        yield report_progress, add_steps


def _escape(text: str) -> str:
    return escape(printable.mask(text))


def _console(file: IO[str] | None) -> Console:
    console = Console(file=file, highlight=False)
    if console.is_terminal:
        return console
    return Console(file=file, highlight=False, width=_FILE_WIDTH, color_system=None)


def _table(title: str, header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(*header, box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(_escape, row))
    return table


def _node(row: NodeRow) -> tuple[str, ...]:
    free = "" if row.free_bytes is None else f"{row.free_bytes / (1 << 30):.1f} GiB"
    counts = ("?" if count is None else str(count) for count in (row.views, row.failures))
    registered = "yes" if row.registered else "no"
    return (row.node, row.driver, registered, ", ".join(row.versions), *counts, free, str(len(row.problems) or ""))
