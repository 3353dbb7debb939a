"""Mount points in a version's tree, for pods whose agent is mounted read-only.

A read-only mount can't get what it lacks, and a container whose mount point is missing does not start. Most packages
have some of these. The rest is added, empty, before a version comes into the store, and to versions of earlier drivers
when the first such pod needs them. Both is no change of the agent, so a file manifest needs not name them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.common import agents
from oneagent.csi_driver.linux import syscalls

_DIRECTORY_MODE: Final = 0o1777
"""As of all directories of a version (`unpack.file_manifest.DIRECTORY_MODE`, whose module the server does not load)"""
_MAX_CONFIG_BYTES: Final = 4 << 20
"""More than that of a package and a tenant's settings together"""
_BENEATH: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def ensure(tree: str | Path) -> None:
    """Add the missing mount points; `OSError` if one can't be added, or something else is in its place."""
    profile = agents.of_tree(tree) or agents.DEFAULT
    with _opened(os.open(tree, _DIRECTORY)) as top:
        for name in profile.writable_directories:
            _ensure_directory(name, top)
        for path in profile.mount_files:
            _ensure_file(path, top)
    for path in profile.config_files:
        read_config(tree, path)


def read_config(tree: str | Path, config_file: str) -> bytes:
    """Return the agent's configuration in a version, or in a config layer; `OSError` if it is no regular file."""
    with (
        _opened(os.open(tree, _DIRECTORY)) as top,
        _opened(syscalls.openat2(top, config_file, os.O_RDONLY | os.O_NONBLOCK, _BENEATH)) as file,
    ):
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileExistsError(errno.EEXIST, "not a regular file", f"{tree}/{config_file}")
        with open(file, "rb", closefd=False) as content:
            return content.read(_MAX_CONFIG_BYTES)


def is_added(tree: Path, path: str) -> bool:
    """Return whether this is an empty mount point, as this module adds them, or a directory of nothing else."""
    profile = agents.of_tree(tree) or agents.DEFAULT
    try:
        status = os.lstat(tree / path)
        if path in profile.writable_directories:
            return stat.S_ISDIR(status.st_mode) and not os.listdir(tree / path)
        if added := {
            name for above, _, name in (each.rpartition("/") for each in profile.mount_files) if above == path
        }:
            return stat.S_ISDIR(status.st_mode) and added.issuperset(os.listdir(tree / path))
        return path in profile.mount_files and stat.S_ISREG(status.st_mode) and not status.st_size
    except OSError:
        return False


def _ensure_directory(name: str, parent: int) -> None:
    """Create a directory; a view shows it, so every user may write to it there."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        os.close(syscalls.openat2(parent, name, os.O_PATH | os.O_DIRECTORY, _BENEATH))
        return
    os.chmod(name, _DIRECTORY_MODE, dir_fd=parent)


def _ensure_file(path: str, top: int) -> None:
    """Create an empty file that every user may read."""
    above, _, name = path.rpartition("/")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with (
        contextlib.suppress(FileExistsError),
        _opened(_open_or_create(above, top)) as directory,
        _opened(os.open(name, flags, 0o644, dir_fd=directory)) as file,
    ):
        os.fchmod(file, 0o644)


def _open_or_create(path: str, top: int) -> int:
    """Open a directory, created unless it exists. Packages of some agents have none for their configuration."""
    try:
        return syscalls.openat2(top, path, os.O_PATH | os.O_DIRECTORY, _BENEATH)
    except FileNotFoundError:
        above, _, name = path.rpartition("/")
        with _opened(syscalls.openat2(top, above, os.O_PATH | os.O_DIRECTORY, _BENEATH)) as parent:
            _ensure_directory(name, parent)
        return syscalls.openat2(top, path, os.O_PATH | os.O_DIRECTORY, _BENEATH)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
