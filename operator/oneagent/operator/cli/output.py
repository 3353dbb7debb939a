"""Text of status and doctor, and progress on a terminal. The only module here that imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oneagent.common import agents, printable, terminal
from oneagent.common.terminal import Column, Screen
from oneagent.operator.cli.doctor import DoctorReport, Finding, Mark, Severity, installation
from oneagent.operator.cli.status import ClusterStatus, DynaKubeRow, NodeRow

_MOST_PROBLEMS: Final = 15
_MOST_VERSIONS: Final = 3
_BAR: Final = 20
_COUNT: Final = 22
"""Columns of a progress bar: of the bar, and of the count, the time and what separates them."""
_MARKS: Final = {
    Mark.PASSED: ("✓", "green"),
    Mark.WARNING: ("!", "yellow"),
    Mark.ERROR: ("✗", "red"),
    Mark.SKIPPED: ("-", "dim"),
}
_SEVERITIES: Final = {Severity.ERROR: ("✗", "red"), Severity.WARNING: ("!", "yellow"), Severity.NOTE: ("·", "dim")}
_STATES: Final = {
    "ready": "green",
    "yes": "green",
    "not ready": "red",
    "none": "yellow",
    "no": "red",
    "starting": "yellow",
}
_COMPONENTS: Final = (Column("component"), Column("ready"), Column("release", 1), Column("kind", 2))
_NODES: Final = (
    Column("node"),
    Column("driver", styles=_STATES),
    Column("registered", 3, styles=_STATES),
    Column("versions", 1),
    Column("views", 4),
    Column("failures", 4),
    Column("free", 5),
    Column("problems", 2, styles={}),
)
_KUBES: Final = (
    Column("dynakube"),
    Column("ready", styles=_STATES),
    Column("version", 1),
    Column("mode", 3),
    Column("nodes", 2),
    Column("message", 4, wraps=True),
)


def status_lines(
    status: ClusterStatus, screen: Screen, *, is_wide: bool = False, has_summary: bool = True
) -> Iterator[str]:
    """Yield a summary line, tables if `is_wide` or a node was asked for, and what needs attention."""
    if has_summary:
        yield from screen.wrap(_summary(status))
    if is_wide:
        components = (
            (row.component, f"{row.ready}/{row.desired}" if row.kind else "not installed", row.version, row.kind)
            for row in status.components
        )
        yield ""
        yield from terminal.table(_COMPONENTS, components, screen)
        if status.dynakubes:
            yield ""
            yield from terminal.table(_KUBES, map(_dynakube, status.dynakubes), screen)
    if is_wide or (has_summary and any(row.views is not None for row in status.nodes)):
        yield ""
        yield from terminal.table(_NODES, map(_node, status.nodes), screen)
    if has_summary:
        yield ""
    yield from _problem_lines(status, screen, everything=is_wide)
    if has_summary and status.is_healthy:
        yield screen.paint("Nothing needs attention.", "green")


def doctor_lines(report: DoctorReport, screen: Screen) -> Iterator[str]:
    """Yield each check with its mark and its findings below, and the count."""
    width = max(len(result.check) for result in report.results)
    for finding in (one for one in report.findings if one.check == "Unread"):
        yield from _finding_lines(finding, screen, "")
    for result in report.results:
        mark, style = _MARKS[result.mark]
        title = "not checked" if result.mark is Mark.SKIPPED else result.title
        start = f"{mark} {result.check:<{width}}  "
        for number, line in enumerate(screen.wrap(title, start, " " * (width + 4))):
            yield line if number else screen.paint(mark, style) + line.removeprefix(mark)
        for finding in (one for one in report.findings if one.check == result.check):
            yield from _finding_lines(finding, screen, "    ")
    yield ""
    marks = [result.mark for result in report.results]
    counts = [f"{marks.count(mark)} {_plural(mark, marks.count(mark))}" for mark in Mark if mark in marks]
    end = "nothing needs attention" if report.healthy else f"{_problem_count(report)} to look at"
    nodes = f"{report.nodes} node{'s' if report.nodes != 1 else ''}"
    text = f"{len(marks)} checks: {', '.join(counts)}; reports of {nodes} read; {end}."
    yield from (screen.paint(line, "green" if report.healthy else "yellow") for line in screen.wrap(text))


@contextlib.contextmanager
def progress(title: str, *, is_shown: bool = True) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Show a bar on stderr, if that is a terminal; yields functions that report a step, and add further steps."""
    console = Console(stderr=True)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(_BAR), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.fields[step]}", markup=False),
    )
    room = max(0, console.width - len(title) - _BAR - _COUNT)
    with Progress(*columns, console=console, transient=True, disable=not (is_shown and console.is_interactive)) as bar:
        task = bar.add_task(title, total=None, step="")

        def report_progress(step: str) -> None:
            # The last column is cut to the space left, so that a long name neither moves the bar nor hides the count.
            text = printable.mask(step)
            bar.update(task, advance=1, step=text if len(text) <= room else f"{text[: room - 1]}…" if room > 1 else "")

        def add_steps(steps: int) -> None:
            bar.update(task, total=(bar.tasks[0].total or bar.tasks[0].completed) + steps)

        yield report_progress, add_steps


def _summary(status: ClusterStatus) -> str:
    if status.installation != installation.INSTALLED:
        return f"oneagent-csi is {status.installation} (namespace {status.namespace})"
    release = next((row.version for row in status.components if row.version), "")
    parts = [", ".join(_component(status, name) for name in ("operator", "webhook"))]
    if any(row.component == "driver" and row.kind for row in status.components):
        parts.append(f"{status.summary.nodes_ready} of {status.summary.nodes} nodes ready")
        versions = [f"{version} on {number}" for version, number in status.summary.versions.items()]
        more = f" and {len(versions) - _MOST_VERSIONS} more" if len(versions) > _MOST_VERSIONS else ""
        parts.append(f"agent {', '.join(versions[:_MOST_VERSIONS])}{more}" if versions else "no agent version yet")
    else:
        parts.append("no node driver")
    for kind in dict.fromkeys(("DynaKube", *(agents.kind_of_object(row.name) for row in status.dynakubes))):
        own = [row.ready for row in status.dynakubes if agents.kind_of_object(row.name) == kind]
        parts.append(f"{sum(own)} of {len(own)} {kind}s ready")
    if status.summary.namespaces:
        parts.append(f"{status.summary.namespaces_monitored} of {status.summary.namespaces} namespaces monitored")
    parts.append(f"{len(status.problems)} problem{'' if len(status.problems) == 1 else 's'}")
    return f"oneagent-csi {release} in {status.namespace}: {'; '.join(parts)}".replace("  ", " ")


def _component(status: ClusterStatus, name: str) -> str:
    row = next(row for row in status.components if row.component == name)
    return f"{name} {row.ready}/{row.desired}" if row.kind else f"{name} missing"


def _problem_lines(status: ClusterStatus, screen: Screen, *, everything: bool) -> Iterator[str]:
    shown = status.problems if everything else status.problems[:_MOST_PROBLEMS]
    for finding in shown:
        yield from _finding_lines(finding, screen, "")
    if (hidden := len(status.problems) - len(shown)) > 0:
        yield f"  and {hidden} more: kubectl oneagent status -o wide"
    for reason in status.unread:
        yield from screen.wrap(f"can't be read: {reason}", "- ", "  ")


def _finding_lines(finding: Finding, screen: Screen, indent: str) -> Iterator[str]:
    mark, style = _SEVERITIES[finding.severity]
    for number, line in enumerate(screen.wrap(finding.sentence, f"{indent}{mark} ", f"{indent}  ")):
        yield line if number else indent + screen.paint(mark, style) + line.removeprefix(f"{indent}{mark}")
    if finding.remedy:
        yield from screen.remedy(finding.remedy, f"{indent}  → ", f"{indent}    ")
    for command in finding.commands:
        yield from screen.remedy(command, f"{indent}    ")


def _plural(mark: Mark, count: int) -> str:
    nouns = {Mark.ERROR: "failed", Mark.WARNING: "with warnings" if count != 1 else "with a warning"}
    return nouns.get(mark, str(mark))


def _problem_count(report: DoctorReport) -> str:
    worse = sum(finding.severity != Severity.NOTE for finding in report.findings)
    return f"{worse} finding{'' if worse == 1 else 's'}"


def _counts(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(nodes.items(), key=lambda item: -item[1]))


def _dynakube(row: DynaKubeRow) -> tuple[str, ...]:
    ready = "yes" if row.ready else "no"
    return (agents.short_name(row.name), ready, row.version, row.mode, _counts(row.nodes), row.message)


def _node(row: NodeRow) -> tuple[str, ...]:
    free = "" if row.free_bytes is None else f"{row.free_bytes / (1 << 30):.1f} GiB"
    counts = ("" if count is None else str(count) for count in (row.views, row.failures))
    registered = "yes" if row.registered else "no"
    return (row.node, row.driver, registered, ", ".join(row.versions), *counts, free, str(len(row.problems) or ""))
