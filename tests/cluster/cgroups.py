"""The control groups of one cluster: a folder of its name in every hierarchy, and nothing elsewhere.

kubelet is told to take that folder for its root (`cgroupRoot`), so two clusters on one machine do not meet. On
cgroup v1 every controller is a hierarchy of its own; on v2 there is one, and a controller has to be switched on
in a group before its children have it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
_WANTED: Final = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def unified() -> bool:
    """Whether this machine has cgroup v2 alone."""
    return (ROOT / "cgroup.controllers").exists()


def create(name: str) -> None:
    for hierarchy in hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        if unified():
            _enable(hierarchy)
            _enable(folder)
        elif hierarchy.name == "cpuset":
            # A new group of v1 has no processors and no memory, and takes no process until it has.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((hierarchy / file).read_text())


def processes(name: str) -> set[int]:
    """The processes in the groups, as this process' PID namespace numbers them; 0 stands for those outside."""
    folders = (folder for hierarchy in hierarchies() for folder, _, _ in os.walk(hierarchy / name))
    return {process for folder in folders for process in members(Path(folder))}


def members(group: Path) -> set[int]:
    """The processes of one group, without those below it; none if the group has just gone."""
    try:
        return {int(line) for line in (group / "cgroup.procs").read_text().split()}
    except OSError:
        return set()


def remove(name: str, *, within_seconds: float = 10) -> None:
    """End what is left in the groups and remove them; `OSError` if that does not succeed."""
    deadline = time.monotonic() + within_seconds
    for hierarchy in hierarchies():
        while (hierarchy / name).exists():
            for process in processes(name) - {0}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            try:
                for folder, _, _ in os.walk(hierarchy / name, topdown=False):
                    Path(folder).rmdir()
            except OSError:
                # A process that was just killed leaves its group a moment later.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def hierarchies() -> list[Path]:
    """The roots of the hierarchies that this machine has."""
    if unified():
        return [ROOT]
    # Several controllers may share a hierarchy, of which each has a link. v2 may be among them, without controllers.
    return sorted({path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()})


def _enable(group: Path) -> None:
    present = (group / "cgroup.controllers").read_text().split()
    for controller in _WANTED:
        if controller in present:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
