"""The persistent folders of host agents, one for each DynaKube, bind-mounted for volumes with mode `host`."""

from __future__ import annotations

import contextlib

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server.overlay import MountTarget
from oneagent.csi_driver.server.request_validation import Publish


def bind(folder: DataDir, request: Publish, target: MountTarget) -> None:
    """Mount the folder of the request's DynaKube, which is made if need be; `OSError` if that can't be done."""
    source = folder.host(request.dynakube)
    source.mkdir(mode=0o755, exist_ok=True)
    target.bind(source, request.mount_flags | (syscalls.MS_RDONLY if request.read_only else 0))


def owner(folder: DataDir, target: MountTarget) -> str | None:
    """The DynaKube whose folder is what one sees at the target, if it is one."""
    here = target.identity()
    for entry in folder.host_agents.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            if (status.st_dev, status.st_ino) == here:
                return entry.name
    return None
