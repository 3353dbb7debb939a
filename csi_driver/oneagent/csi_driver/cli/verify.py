"""`oneagent-csi verify`: read the agent store again, and compare it with its manifests."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from oneagent.common import printable
from oneagent.common.identifiers import TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.store import integrity
from oneagent.csi_driver.store.integrity import IntegrityReport, State

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


def run(data: DataDir, versions: Iterable[Version], *, bytes_per_second: float | None, json_output: bool) -> int:
    """Verify versions, or the whole store if none is named, and print the reports; the exit code."""
    reports = []
    try:
        for report in integrity.check(data, versions, bytes_per_second=bytes_per_second):
            reports.append(report)
            if not json_output:
                sys.stdout.writelines(f"{printable.mask(line)}\n" for line in to_lines(data, report))
                sys.stdout.flush()
    except OSError as error:
        raise SystemExit(f"agent store can't be read: {error.strerror} ({error.filename})") from error
    failed = sum(report.state != State.OK for report in reports)
    if json_output:
        sys.stdout.write(json.dumps(to_json(data, reports), indent=2) + "\n")
    else:
        sys.stdout.write(f"{len(reports)} checked, {failed or 'none'} need attention.\n")
    return 1 if failed else 0


def to_json(data: DataDir, reports: Iterable[IntegrityReport]) -> dict[str, Any]:
    """Return the JSON form."""
    rows = [dataclasses.asdict(report) | {"remedy": remedy(data, report)} for report in reports]
    plain: dict[str, Any] = msgspec.to_builtins({"format": JSON_FORMAT, "checked": rows})
    return plain


def to_lines(data: DataDir, report: IntegrityReport) -> Iterator[str]:
    """Yield the lines of text."""
    size = f", {report.files} files, {report.bytes >> 20} MiB" if report.files else ""
    yield f"{report.kind} {report.name}: {report.state}{size}{f' ({report.message})' if report.message else ''}"
    for finding in report.findings:
        detail = f" ({finding.detail})" if finding.detail else ""
        yield f"  {finding.path or 'the whole directory'}: {finding.problem}{detail}"
    if action := remedy(data, report):
        yield f"  what to do: {action}"


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
