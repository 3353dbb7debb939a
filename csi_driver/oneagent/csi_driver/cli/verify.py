"""`oneagent-csi verify`: read the agent store again, and compare it with its manifests."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
from rich.console import Console

from oneagent.common import printable, report_output, terminal
from oneagent.common.identifiers import TenantId, Version, agent_version
from oneagent.common.terminal import Screen
from oneagent.csi_driver.cli import progress_bars
from oneagent.csi_driver.cli.errors import CommandError, explain_access
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.store import integrity
from oneagent.csi_driver.store.integrity import IntegrityReport, State

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


def run(data: DataDir, versions: Iterable[Version], *, bytes_per_second: float | None, output_format: str) -> int:
    """Verify versions, or the whole store if none is named, and print the reports; the exit code."""
    reports = []
    console, screen = Console(stderr=True), terminal.of_stream()
    try:
        with progress_bars.create(console) as bars:

            def begin(version: Version, total: int) -> Callable[[int], None]:
                return partial(bars.advance, bars.add_task(str(agent_version(version)), total=total))

            for report in integrity.check(data, versions, bytes_per_second=bytes_per_second, on_begin=begin):
                reports.append(report)
                for task in bars.task_ids:
                    bars.remove_task(task)
                if not output_format:
                    sys.stdout.writelines(f"{line}\n" for line in to_lines(data, report, screen))
                    sys.stdout.flush()
    except OSError as error:
        message = f"agent store can't be read: {error.strerror} ({error.filename}){explain_access(error, data)}"
        raise CommandError("NotReadable", message) from error
    failed = sum(report.state != State.OK for report in reports)
    if output_format:
        report_output.write(to_json(data, reports), output_format)
    else:
        summary = f"{len(reports)} checked, {failed or 'none'} need attention."
        sys.stdout.write(screen.paint(summary, "red" if failed else "green") + "\n")
    return 1 if failed else 0


def to_json(data: DataDir, reports: Iterable[IntegrityReport]) -> dict[str, Any]:
    """Return the JSON form."""
    rows = [dataclasses.asdict(report) | {"remedy": remedy(data, report)} for report in reports]
    plain: dict[str, Any] = msgspec.to_builtins({"format": JSON_FORMAT, "checked": rows})
    return plain


def to_lines(data: DataDir, report: IntegrityReport, screen: Screen) -> Iterator[str]:
    """Yield the lines of text."""
    size = f", {report.files} files, {report.bytes >> 20} MiB" if report.files else ""
    message = f" ({report.message})" if report.message else ""
    yield from screen.wrap(f"{report.kind} {report.name}: {report.state}{size}{message}", indent="  ")
    for finding in report.findings:
        detail = f" ({finding.detail})" if finding.detail else ""
        yield from screen.wrap(f"{finding.path or 'the whole directory'}: {finding.problem}{detail}", "  ", "    ")
    if action := remedy(data, report):
        command, _, rest = action.partition("; ")
        # In one line, to be copied.
        yield f"  what to do: {printable.mask(command)}"
        if rest:
            yield from screen.wrap(rest, "    ", "    ")


def remedy(data: DataDir, report: IntegrityReport) -> str:
    """Return the remedy; empty for an intact one. Running pods keep the files that are mounted."""
    if report.state == State.OK:
        return ""
    if report.state == State.MISSING:
        return "oneagent-csi status shows the versions in the store"
    if report.kind == "version":
        path, name = data.agent(Version(report.name)), report.name
    else:
        tenant, _, name = report.name.partition("/")
        path = data.config_layer_path(TenantId(tenant), LayerId(name))
    move = f"mv {path} {data.trash}/{name}.corrupt"
    return f"{move}; the provisioner recreates it if a DynaKube requests it, then restart its pods"
