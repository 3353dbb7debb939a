"""The walker of trees that pods wrote: for sizes, statistics and deletion, in bounded memory.

A pod chooses how deep and how wide its tree is. So the walk does not recurse, builds no path, and lists no directory:
it has one directory open at a time, reads names in pieces, and remembers a name and a position for each level. It
returns to a parent by `..`, and only if that is the directory it came from: a process may move directories meanwhile.
Below `MAX_LEVELS` a deletion moves directories up to the top; other walks skip them.

No link is followed, no mount is crossed, and nothing but directories is opened.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from oneagent.csi_driver.linux import syscalls

MAX_LEVELS: Final = 16_384
"""Levels of one walk; each takes at most 0.5 KiB."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES: Final = 4096
# struct linux_dirent64: inode, position of the next entry, length of this one, type; then the name.
_HEADER: Final = struct.Struct("=QqHB")


class Entry(NamedTuple):
    """A file or directory of a tree. `complete` is False for a directory whose contents are skipped."""

    status: os.stat_result
    complete: bool = True


class _Event(enum.Enum):
    FILE = enum.auto()
    """Anything but a directory."""
    ENTER = enum.auto()
    LEAVE = enum.auto()
    TOO_DEEP = enum.auto()
    UNREADABLE = enum.auto()


class _Step(NamedTuple):
    """`directory` is the descriptor of the directory with the entry, valid until the next step.

    `status` is None for LEAVE, and if it can't be read. `error` is the reason of UNREADABLE.
    """

    event: _Event
    directory: int
    name: bytes
    status: os.stat_result | None
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory above the open one: its inode, the child that was entered, and the position after that."""

    inode: int
    child: bytes
    position: int


class _Child(NamedTuple):
    """An open subdirectory, and the position after it in its parent."""

    descriptor: int
    inode: int
    name: bytes
    position: int


def entries(path: str | Path) -> Iterator[Entry]:
    """Yield what is at a path, and everything below it, each directory before its contents.

    Never fails: what vanishes meanwhile or can't be read is left out, and the walk ends where a directory was moved.
    """
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        yield Entry(status)
        if stat.S_ISDIR(status.st_mode):
            with _opened(path) as top:
                for event, _, _, found, _ in _walk(top):
                    if found is not None:
                        yield Entry(found, event in {_Event.FILE, _Event.ENTER})


def remove(path: str | Path, parent: int | None = None, on_file: Callable[[], None] = lambda: None) -> int:
    """Remove a file or a tree and return the freed bytes; 0 if it is missing.

    `path` may be relative to the open directory `parent`. `on_file` is called after each removed file. `OSError` if
    something in the tree can't be removed; the next call goes on.
    """
    try:
        status = os.stat(path, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(path, dir_fd=parent)
        return _freed_bytes(status)
    with _opened(path, parent) as top:
        freed = _remove_contents(top, on_file)
    os.rmdir(path, dir_fd=parent)
    return freed + status.st_blocks * 512


def remove_if_possible(path: str | Path) -> None:
    """Remove a file or a tree as far as possible; the rest is left to the next clean-up."""
    with contextlib.suppress(OSError):
        remove(path)


def _remove_contents(top: int, on_file: Callable[[], None]) -> int:
    freed, moved, is_flat = 0, 0, False
    while not is_flat:
        is_flat = True
        for event, directory, name, status, error in _walk(top):
            if event is _Event.LEAVE:
                os.rmdir(name, dir_fd=directory)
            elif event is _Event.TOO_DEEP:
                moved = _move_up(directory, name, top, moved)
                is_flat = False
            elif error is not None:
                raise error
            elif status is not None:
                if event is _Event.FILE:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=directory)
                    on_file()
                freed += _freed_bytes(status)
    return freed


def _move_up(directory: int, name: bytes, top: int, number: int) -> int:
    """Move a directory to the top under the first unused number, counted from `number`; return the next number."""
    while True:
        try:
            os.rename(name, str(number), src_dir_fd=directory, dst_dir_fd=top)
            return number + 1
        except OSError as error:
            # Something has that name. An empty directory would be replaced, which is as good as removed.
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise
        number += 1


def _freed_bytes(status: os.stat_result) -> int:
    """Return the freed bytes: 0 for a file that has other hard links, like one that versions share."""
    is_last = status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)
    return status.st_blocks * 512 if is_last else 0


@contextlib.contextmanager
def _opened(path: str | Path, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(top: int) -> Iterator[_Step]:
    """Walk below an open directory, depth first; `OSError` where a directory was moved meanwhile."""
    status = os.fstat(top)
    device, inode, position = status.st_dev, status.st_ino, 0
    above: list[_Level] = []
    buffer = bytearray(_PIECE_BYTES)
    here = os.open(".", _DIRECTORY, dir_fd=top)
    try:
        while True:
            child = yield from _to_next_child(_names(here, position, buffer), here, device, len(above))
            if child is not None:
                above.append(_Level(inode, child.name, child.position))
                os.close(here)
                here, inode, position = child.descriptor, child.inode, 0
            elif above:
                level = above.pop()
                parent = _open_parent(here, device, level.inode)
                os.close(here)
                here, inode, position = parent, level.inode, level.position
                yield _Step(_Event.LEAVE, here, level.child, None)
            else:
                return
    finally:
        os.close(here)


def _to_next_child(
    names: Iterator[tuple[bytes, int]], here: int, device: int, level: int
) -> Generator[_Step, None, _Child | None]:
    """Yield the entries up to the next subdirectory that can be entered, and return that; None at the end."""
    for name, position in names:
        try:
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield _Step(_Event.UNREADABLE, here, name, None, error)
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield _Step(_Event.FILE, here, name, status)
            continue
        if level >= MAX_LEVELS:
            yield _Step(_Event.TOO_DEEP, here, name, status)
            continue
        try:
            descriptor = _open_child(here, name, device)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield _Step(_Event.UNREADABLE, here, name, status, error)
            continue
        try:
            yield _Step(_Event.ENTER, here, name, status)
        except BaseException:
            os.close(descriptor)
            raise
        return _Child(descriptor, os.fstat(descriptor).st_ino, name, position)
    return None


def _names(directory: int, position: int, buffer: bytearray) -> Iterator[tuple[bytes, int]]:
    """Yield the names in an open directory from a position on, each with the position after it."""
    os.lseek(directory, position, os.SEEK_SET)
    with contextlib.suppress(FileNotFoundError):  # The directory itself was removed.
        while filled := syscalls.getdents64(directory, buffer):
            at = 0
            while at < filled:
                _, following, length, _ = _HEADER.unpack_from(buffer, at)
                start = at + _HEADER.size
                name = bytes(buffer[start : buffer.index(0, start)])
                at += length
                if name not in {b".", b".."}:
                    yield name, following


def _open_child(directory: int, name: bytes, device: int) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    if os.fstat(descriptor).st_dev != device:
        os.close(descriptor)
        raise OSError(errno.EXDEV, "another file system is mounted below", os.fsdecode(name))
    return descriptor


def _open_parent(directory: int, device: int, inode: int) -> int:
    descriptor = os.open("..", _DIRECTORY, dir_fd=directory)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (device, inode):
        os.close(descriptor)
        raise OSError(errno.ESTALE, "a directory was moved during the walk")
    return descriptor


def read_file(root: str, path: str, max_bytes: int) -> bytes:
    """Read the beginning of a file below `root`; `OSError` if it is no regular file, or reached by a symlink.

    Only a regular file is opened for reading: to open a pipe may block, and to open a device may do what it is for.
    """
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = syscalls.openat2(top, path, os.O_PATH | os.O_NOFOLLOW, resolve)
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", f"{root}/{path}")
        with open(f"/proc/self/fd/{found}", "rb", buffering=0) as file:
            return file.read(max_bytes)
    finally:
        os.close(found)
