"""Durable writes: whole trees by one `syncfs`, single files by an atomic replace.

One `syncfs` makes a whole tree durable. An `fsync` for each of some thousand files costs a journal commit
each and promises nothing more, because the tree becomes visible by a single rename after it. `syncfs` is
not in the standard library, so it goes through libc. Errors are `OSError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def syncfs(fd: int) -> None:
    """syncfs(2): write the file system of `fd` to the disk. Since Linux 5.8 it also reports write errors."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_tree(directory: Path) -> None:
    """Make everything below `directory` durable: the step before the rename that makes it visible."""
    fd = os.open(directory, _DIRECTORY)
    try:
        syncfs(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from error
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Replace the content of `path` durably; a reader sees the old content or the new, never a part."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, _DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
