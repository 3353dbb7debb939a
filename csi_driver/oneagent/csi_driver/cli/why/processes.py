"""Processes of a pod, found by its view, and the agent's library in them.

A container has the view in its mount table, with the options that it was mounted with. Each view has an upper layer
of its own, so these options are unique, and neither control groups nor a container runtime are needed. The node's
mount table has the view too, at the volume's target; processes there are not the pod's.

A process that ends meanwhile is left out. Of its environment only `LD_PRELOAD` is read.

psutil has neither namespaces nor mount tables of processes, and its `memory_maps` reads smaps, which took 9 ms a
process against 0.3 ms for maps. So `proc` is read here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import agents
from oneagent.common.injection import contract, inert_library
from oneagent.common.node_report import PodProcess
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.store.mounted_views import MountedView

_LIBRARIES: Final = tuple(profile.library_name for profile in agents.PROFILES)
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_PT_INTERP: Final = 3
_MAX_HEADERS_BYTES: Final = 1 << 16
"""The kernel starts no program with more, and a pod chooses what its program's headers claim."""


@dataclass(frozen=True, slots=True)
class ProcessScan:
    """Processes of the pod; `sees_pods`: those of other containers are visible, and all of them readable."""

    processes: tuple[PodProcess, ...]
    sees_pods: bool


def find_processes(proc: Path, view: MountedView, target: str) -> ProcessScan:
    """Find the processes that have the view mounted; `OSError` if `proc` is no proc file system."""
    return _scan(proc, lambda table: _places(table, view, target))


def find_by_pod(proc: Path, uid: str) -> ProcessScan:
    """Find the processes of a pod, whatever it has mounted; `OSError` if `proc` is no proc file system.

    Kubelet mounts files of the pod's own directory into each of its containers: `etc-hosts` and the termination log.
    """
    own = re.compile(rf"/pods/{re.escape(uid)}/(etc-hosts$|containers/)")
    return _scan(proc, lambda table: ("",) if any(own.search(mount.root) for mount in table) else ())


def _scan(proc: Path, find_places: Callable[[list[Mount]], tuple[str, ...]]) -> ProcessScan:
    processes = []
    places: dict[str, tuple[str, ...]] = {}
    namespaces = set()
    is_refused = False
    for process in sorted(
        (entry for entry in proc.iterdir() if entry.name.isdecimal()), key=lambda path: int(path.name)
    ):
        try:
            namespaces.add(os.readlink(process / "ns/pid"))
            namespace = os.readlink(process / "ns/mnt")
            if namespace not in places:
                places[namespace] = find_places(mount_table.read(process / "mountinfo"))
            if places[namespace]:
                processes.append(_process(process, places[namespace]))
        except PermissionError:
            is_refused = True
        except OSError:
            continue
    return ProcessScan(tuple(processes), len(namespaces) > 1 and not is_refused)


def _places(table: Iterable[Mount], view: MountedView, target: str) -> tuple[str, ...]:
    """Return where a container has the view mounted; nothing for the node and the pod's init container."""
    places = tuple(_agents(table, view))
    # Containers that have the node's root mounted see the target below that.
    if (
        any(place.endswith((target, f"{target}/{contract.AGENT_SUBDIRECTORY}")) for place in places)
        or contract.BIN_DIRECTORY in places
    ):
        return ()
    return places


def _agents(table: Iterable[Mount], view: MountedView) -> Iterator[str]:
    """Yield where the agent of a view is mounted.

    Pods with a user namespace share the mount's source, and each has a file of its own volume mounted.
    """
    if view.agent is None:
        options = view.mount.super_options
        yield from (mount.target for mount in table if mount.fs_type == "overlay" and mount.super_options == options)
        return
    mounts = list(table)
    own, shared = (view.mount.device, f"{view.mount.root}/"), (view.agent.device, view.agent.root)
    if any(mount.device == own[0] and mount.root.startswith(own[1]) for mount in mounts):
        yield from (mount.target for mount in mounts if (mount.device, mount.root) == shared)


def _process(process: Path, places: tuple[str, ...]) -> PodProcess:
    command = (process / "comm").read_text(errors="replace").rstrip("\n")
    return PodProcess(
        pid=int(process.name),
        # A process chooses its own name, which is printed on a terminal.
        command="".join(char if char.isprintable() else "?" for char in command),
        mapped=_has_library(process / "maps", places),
        preload=_has_ld_preload(process / "environ"),
        static=_is_static(process / "exe"),
    )


def _has_library(maps: Path, places: tuple[str, ...]) -> bool | None:
    inside, names = tuple(f"{place}/" for place in places), tuple(f"/{name}" for name in _LIBRARIES)
    try:
        with maps.open(errors="surrogateescape") as lines:
            mappings = (line.rstrip("\n").split(maxsplit=5) for line in lines)
            found = [one for one in mappings if one[5:] and one[5].startswith(inside) and one[5].endswith(names)]
    except PermissionError:
        return None
    return any(not _is_inert(maps.parent, one[0]) for one in found)


def _is_inert(process: Path, addresses: str) -> bool:
    """Return True if the library is the one that does nothing, in a pod whose agent could not be installed.

    The kernel's link to the mapped file (proc(5)) leads there whatever the pod has put at its path.
    """
    start, _, end = addresses.partition("-")
    try:
        return inert_library.is_inert(str(process / "map_files" / f"{int(start, 16):x}-{int(end, 16):x}"))
    except OSError:
        return False


def _has_ld_preload(environ: Path) -> bool | None:
    try:
        variables = environ.read_bytes().split(b"\0")
    except PermissionError:
        return None
    preload = b"".join(entry for entry in variables if entry.startswith(b"LD_PRELOAD="))
    return any(name.encode() in preload for name in _LIBRARIES)


def _is_static(program: Path) -> bool | None:
    """Return True if the program has no PT_INTERP header (elf(5)), None if it is no 64-bit ELF."""
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or not header.startswith(_ELF64_LITTLE):
                return None
            (offset,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            if size * count > _MAX_HEADERS_BYTES:
                return None
            file.seek(offset)
            headers = file.read(size * count)
    except (OSError, ValueError):
        return None
    if size < 4 or len(headers) < size * count:
        return None
    return all(struct.unpack_from("<I", headers, at)[0] != _PT_INTERP for at in range(0, size * count, size))
