"""The persistent directories of host agents, one for each DynaKube, bind-mounted for volumes with mode `host`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server.mount_target import MountTarget
from oneagent.csi_driver.server.request_validation import PublishRequest


def bind(data: DataDir, request: PublishRequest, target: MountTarget) -> None:
    """Bind-mount the directory of the request's DynaKube, created if missing; `OSError`."""
    source = data.host_agent_directory(request.dynakube)
    try:
        source.mkdir(mode=0o755, exist_ok=True)
    except FileNotFoundError:
        data.create()
        source.mkdir(mode=0o755, exist_ok=True)
    target.bind(source, request.mount_flags | (syscalls.MS_RDONLY if request.read_only else 0))


def find_owner(data: DataDir, target: MountTarget) -> str | None:
    """Return the DynaKube whose directory is visible at the target, if any."""
    here = target.identity()
    entries: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        entries = list(data.host_agents.iterdir())
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            if (status.st_dev, status.st_ino) == here:
                return entry.name
    return None
