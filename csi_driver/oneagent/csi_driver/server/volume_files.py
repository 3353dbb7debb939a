"""Files and directories of a volume, written through open directories without following a symlink.

Most volumes are new. A plain directory may be from before a reboot: whatever its pod has put in the way of a file stays
and costs that file only. A disk without a free block costs contents: each file exists, if empty, because it is mounted
into a container by its name, and a container whose file is missing does not start.

All of it is readable for any user, whatever the umask.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from oneagent.common import logs
from oneagent.common.agents import oneagent
from oneagent.common.agents.pod_files import PodFiles
from oneagent.common.injection import contract, inert_library

log = logging.getLogger(__name__)

IDENTITY_FILE: Final = f"{contract.VIEW_FILES_DIRECTORY}/{oneagent.IDENTITY_NAME}"
"""The pod's identity, in every view of OneAgent"""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_IN_THE_WAY: Final = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EEXIST}


def of_view(files: PodFiles) -> Iterator[tuple[str, str]]:
    """Yield the files of a view one by one, the pod's identity first."""
    yield files.profile.identity_file, files.profile.render_identity(files)
    yield from files.render()


def write(directory: int, files: Iterable[tuple[str, str]]) -> None:
    """Write files into an open directory; `OSError` unless all that are mounted by their name exist in the end.

    Subdirectories are mounted as a whole.
    """
    with contextlib.ExitStack() as stack:
        opened = {"": directory}
        for path, text in files:
            above, _, name = path.rpartition("/")
            with leaving_what_is_there():
                if above not in opened:
                    opened[above] = stack.enter_context(open_directory(above, directory))
                _write_file(opened[above], name, text.encode())


def write_plain(directory: int, files: PodFiles) -> None:
    """Write the pod's files into a plain directory, to the place that they have in a view."""
    with leaving_what_is_there(), open_directory(contract.VIEW_FILES_DIRECTORY, directory) as place:
        write(place, files.render())


def write_mount_files(directory: int, paths: Iterable[str]) -> None:
    """Write empty files over which others are mounted, below a volume or an agent that is not there."""
    for path in paths:
        above, _, name = path.rpartition("/")
        with leaving_what_is_there(), open_directory(above, directory) as place:
            write(place, [(name, "")])


def write_inert_agent(directory: int, preload_library: str, mount_points: Iterable[str]) -> None:
    """Write the inert library, for `LD_PRELOAD`, and create mount points. Without the library the pod starts too."""
    for name in mount_points:
        with leaving_what_is_there(), open_directory(name, directory):
            pass
    try:
        inert_library.write(directory, preload_library)
    except OSError as error:
        log.info("empty view without inert library", extra=logs.fields(reason=error.strerror))


@contextlib.contextmanager
def leaving_what_is_there() -> Iterator[None]:
    """Leave what a pod has put in the way of a file or a directory."""
    try:
        yield
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        log.warning("file not written", extra=logs.fields(file=error.filename, reason=error.strerror))


@contextlib.contextmanager
def open_directory(path: str, parent: int) -> Iterator[int]:
    """Open a directory below another one, created unless it exists."""
    with contextlib.ExitStack() as stack:
        for name in path.split("/"):
            parent = _open_or_create(name, parent)
            stack.callback(os.close, parent)
        yield parent


def _open_or_create(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    os.fchmod(directory, 0o755)
    return directory


def _write_file(directory: int, name: str, content: bytes) -> None:
    file = os.open(name, _FILE, 0o644, dir_fd=directory)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise FileExistsError(errno.EEXIST, "no regular file")
        if stat.S_IMODE(status.st_mode) != 0o644:
            os.fchmod(file, 0o644)
        if (written := _write_all(file, content)) < status.st_size:
            os.ftruncate(file, written)
    finally:
        os.close(file)


def _write_all(file: int, content: bytes) -> int:
    """Write the content, or nothing if the disk is full; return the bytes."""
    written = 0
    try:
        written = os.write(file, content)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
    if written != len(content):
        # An agent that can't report its pod's name is better than none, and no identity better than half of one.
        log.warning("disk full, file left empty")
        os.ftruncate(file, 0)
        return 0
    return written
