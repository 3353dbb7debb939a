"""A fresh tree on the disk, filled by root from content that root does not trust.

Every name is created relative to the descriptor of its folder, with `O_NOFOLLOW` and `O_EXCL`, so that a
name can neither lead elsewhere nor replace anything, whatever the check of names before may have missed.
Folders come first, links last: while files are written the tree holds no link at all. Folders are
walked down one by one rather than opened by `openat2`, which nodes with a kernel before 5.6 lack.

Modes are set on descriptors. The umask would have to be changed for anything else, and it belongs to the
whole process.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from oneagent.common import page_cache
from oneagent.common.unpack import dedup, file_manifest

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_mode(mode: int) -> int:
    """What is kept of a package's permission bits: no setuid, everybody may read, nobody but the owner may write.

    A pod runs as any user id and has to load all of its agent; what it writes goes to new files in its upper layer.
    """
    return mode & 0o755 | 0o444


class Tree:
    """A folder that is being filled. `folder` and `write` may be called from several threads."""

    def __init__(self, root: Path) -> None:
        self._fd = os.open(root, _FOLDER)

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """The descriptor of a folder of the tree; "" is the tree itself."""
        fd = os.dup(self._fd)
        try:
            for part in path.split("/") if path else ():
                inner = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def make_folders(self, paths: Iterable[str]) -> None:
        """Make all of the tree's folders; the tree itself ("") gets the mode of a folder too."""
        for path in sorted(paths):
            above, _, name = path.rpartition("/")
            if name:
                with self.folder(above) as fd:
                    os.mkdir(name, 0o700, dir_fd=fd)
            with self.folder(path) as fd:
                os.fchmod(fd, file_manifest.DIRECTORY_MODE)

    def write(
        self,
        folder: int,
        path: str,
        mode: int,
        chunks: Iterable[bytes | memoryview],
        begun: dedup.Prefix | None = None,
    ) -> file_manifest.File:
        """Write a file into the open `folder`; returns what was written. Nothing is synced.

        `begun` says where its beginning is already; `chunks` are then the rest.
        """
        digest = begun.digest if begun else dedup.new_digest()
        fd = os.open(path.rpartition("/")[2], _NEW, 0o600, dir_fd=folder)
        try:
            size, cache = 0, page_cache.Written(fd)
            if begun:
                dedup.copy(begun.twin, fd, begun.size)
                size = begun.size
            for chunk in chunks:
                digest.update(chunk)
                size += _write(fd, chunk)
                cache.grown(size)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return file_manifest.File(path=path, size=size, mode=mode, sha256=digest.hexdigest())

    def beginning(self, path: str, count: int) -> bytes:
        """The first bytes of a file of the tree."""
        above, _, name = path.rpartition("/")
        with self.folder(above) as folder:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                return os.pread(fd, count, 0)
            finally:
                os.close(fd)

    def link(self, path: str, target: str) -> file_manifest.Link:
        """Make a symbolic link; its target has been checked, and all other entries are there."""
        above, _, name = path.rpartition("/")
        with self.folder(above) as fd:
            os.symlink(target, name, dir_fd=fd)
        return file_manifest.Link(path=path, target=target)

    def hard_link(self, path: str, first: str) -> None:
        """Give a file of the tree another name."""
        with self.folder(first.rpartition("/")[0]) as there, self.folder(path.rpartition("/")[0]) as here:
            os.link(
                *(first.rpartition("/")[2], path.rpartition("/")[2]),
                src_dir_fd=there,
                dst_dir_fd=here,
                follow_symlinks=False,
            )

    def exchange(self, folder: int, path: str, twin: int) -> bool:
        """Replace a file by another name of the open file `twin`; whether that could be done."""
        passing = f".{threading.get_ident()}"
        if not dedup.link(twin, self._fd, passing):
            return False
        os.rename(passing, path.rpartition("/")[2], src_dir_fd=self._fd, dst_dir_fd=folder)
        return True

    def forget(self, paths: Iterable[str]) -> None:
        """Give back the page cache of files that have been synced."""
        for path in paths:
            above, _, name = path.rpartition("/")
            with self.folder(above) as fd:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    page_cache.drop_read(file, 0, 0)
                finally:
                    os.close(file)


def _write(fd: int, chunk: bytes | memoryview) -> int:
    """All of it: the kernel may take a part, when the disk is nearly full or a signal comes in."""
    done = os.write(fd, chunk)
    while done < len(chunk):
        done += os.write(fd, memoryview(chunk)[done:])
    return len(chunk)
