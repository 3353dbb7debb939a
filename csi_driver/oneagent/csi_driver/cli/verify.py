"""`oneagent-csi verify`: read the agent store again, and compare it with its manifests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import integrity


def run(data: DataDir, versions: Iterable[Version], *, bytes_per_second: float | None, json_output: bool) -> int:
    """Verify versions, or the whole store if none is named, and print the reports; the exit code."""
    reports = []
    try:
        for report in integrity.check(data, versions, bytes_per_second=bytes_per_second):
            reports.append(report)
            if not json_output:
                sys.stdout.writelines(f"{line}\n" for line in integrity.lines(data, report))
                sys.stdout.flush()
    except OSError as error:
        raise SystemExit(f"agent store can't be read: {error.strerror} ({error.filename})") from error
    failed = sum(report.state != integrity.State.OK for report in reports)
    if json_output:
        sys.stdout.write(json.dumps(integrity.as_json(data, reports), indent=2) + "\n")
    else:
        sys.stdout.write(f"{len(reports)} checked, {failed or 'none'} need attention.\n")
    return 1 if failed else 0
