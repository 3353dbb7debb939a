"""The command `oneagent-csi preload`: carries a package to the store, and says what became of it (see `preloads`)."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich import progress
from rich.console import Console

from oneagent.common import unpack
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.oci.reference import LayoutReference
from oneagent.csi_driver.cli import preload_package
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.store import AgentStore, preload, usage
from oneagent.csi_driver.store.preload import NotPreloadedError

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
_LOOK_SECONDS: Final = 0.1


def run(
    folder: DataDir,
    what: Path | LayoutReference,
    version: Version,
    *,
    keep_seconds: float,
    wait_seconds: float,
    json_output: bool,
) -> int:
    """Preload a package and wait for the provisioner, if one runs. Prints the answer; the exit code."""
    console = Console(stderr=True)
    try:
        folder.create()
        store = AgentStore(folder)
        found = preload_package.find(what, version)
        version = found.version
        with _bars(console) as bars:
            done = preload.preload(
                folder,
                lambda: found.read(_bar(bars, "checking")),
                version,
                keep_seconds,
                usage.present(folder, store),
                begun=lambda size: partial(bars.advance, bars.add_task("unpacking", total=size)),
            )
        with console.status("waiting for the provisioner"):
            taken = _taken(folder, store, version, wait_seconds)
    except (NotPreloadedError, unpack.PackageError, download.DownloadError) as error:
        raise SystemExit(f"{what}: {error}") from error
    except OSError as error:
        raise SystemExit(f"{what} can't be preloaded: {error.strerror} ({error.filename})") from error
    if json_output:
        answer: dict[str, Any] = {"format": JSON_FORMAT, "version": version, "taken": taken}
        answer |= {"bytes": done.bytes, "shared_bytes": done.shared_bytes, "seconds": round(done.seconds, 3)}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        where = "is in the store" if taken else "waits for the provisioner, which puts it into the store when it runs"
        sys.stdout.write(f"version {version}, {done.bytes >> 20} MiB, {where}\n")
    return 0


def _bars(console: Console) -> progress.Progress:
    """Bars for people; nothing where nobody looks."""
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _bar(bars: progress.Progress, title: str) -> preload_package.Told:
    """A bar that appears once there is something to tell."""
    task: progress.TaskID | None = None

    def told(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            task = bars.add_task(title, total=total)
        bars.update(task, completed=done)

    return told


def _taken(folder: DataDir, store: AgentStore, version: Version, wait_seconds: float) -> bool:
    """Whether the version is in the store; waited for as long as somebody may put it there."""
    deadline = time.monotonic() + wait_seconds
    while not store.has(version):
        if time.monotonic() > deadline or not process.is_held(folder.root / "provisioner.lock"):
            return False
        time.sleep(_LOOK_SECONDS)
    return True
