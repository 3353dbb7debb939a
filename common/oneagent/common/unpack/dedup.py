"""Hard links to equal files of installed versions, instead of second copies.

Most files of two versions are equal, and a version never changes. So a file may have a name in each of them (a hard
link): it is on the disk once, and in the page cache once for the pods of both. The file manifest of an installed
version yields a candidate for each new file: by SHA-256, or before that is known by size and name, since directories
are named after versions. That is only a hint. The package's content is compared with the candidate's bytes as it
comes, and nothing is written while they are equal. So a candidate that the disk has damaged is never shared again.

Links share more than the content. Permissions have to be equal too; owner and group are always root's. The
modification time stays that of the first version. A file may not get another name (the limit of links is reached, or
the file system has none). Its blocks are then shared if the file system can do that, else copied.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from oneagent.common import page_cache
from oneagent.common.unpack import file_manifest

_CHUNK: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags that do not block on a pipe in place of a file."""


class Digest(Protocol):
    """A hash in progress."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Candidate(NamedTuple):
    """An installed file that may be equal to a new one."""

    tree: Path
    file: file_manifest.File


class Prefix(NamedTuple):
    """The first `size` bytes of a new file, and their hash: they equal those of the open file `existing`."""

    existing: int
    size: int
    digest: Digest


class DeferredLinks:
    """Hard links that another process will make, because this one has no right to. Thread-safe.

    `of` has the source of each path: a tree and a path in it; for a file of the new tree itself, None and its path.
    """

    def __init__(self) -> None:
        self.of: dict[str, tuple[Path | None, str]] = {}

    def find_origin(self, path: str) -> tuple[Path | None, str]:
        """Return the tree and the path of the file that has the content now; None for the new tree."""
        tree: Path | None = None
        while tree is None and path in self.of:
            tree, path = self.of[path]
        return tree, path


class ExistingFiles:
    """The files of installed versions, as candidates for a new version's. Thread-safe.

    With `deferred`, links are added to it instead of made.
    """

    def __init__(
        self,
        versions: Iterable[tuple[Path, file_manifest.Manifest]] = (),
        deferred: DeferredLinks | None = None,
    ) -> None:
        self.deferred = deferred
        self.shared_bytes = 0
        self._guard = threading.Lock()
        self._by_name: dict[tuple[int, int, str], list[Candidate]] = {}
        self._by_content: dict[tuple[str, int], Candidate] = {}
        for tree, manifest in versions:
            for file in manifest.files:
                candidate = Candidate(tree, file)
                self._by_name.setdefault((file.size, file.mode, _base_name(file.path)), []).append(candidate)
                self._by_content.setdefault((file.sha256, file.mode), candidate)

    def count_shared(self, size: int) -> None:
        """Count the size of a file that did not have to be stored again."""
        with self._guard:
            self.shared_bytes += size

    def find_similar(self, path: str, size: int, mode: int) -> Candidate | None:
        """Return the likeliest candidate for a new file, by its name and those of its directories."""
        similar = self._by_name.get((size, mode, _base_name(path)), ())
        return max(similar, key=lambda candidate: _common_suffix_length(candidate.file.path, path), default=None)

    def find_equal(self, file: file_manifest.File) -> Candidate | None:
        """Return the candidate with the same content and permissions."""
        return self._by_content.get((file.sha256, file.mode))


@contextlib.contextmanager
def open_candidate(candidate: Candidate) -> Iterator[int | None]:
    """Open the candidate's file; None if it is missing, or differs from its file manifest."""
    try:
        descriptor = os.open(candidate.tree / candidate.file.path, _READ)
    except OSError:
        yield None
        return
    try:
        if _is_unchanged(descriptor, candidate.file):
            yield descriptor
            page_cache.drop_read(descriptor)
        else:
            yield None
    finally:
        os.close(descriptor)


def compare_prefix(
    existing: int, chunks: Iterator[bytes | memoryview], digest: Digest
) -> tuple[int, bytes | memoryview]:
    """Consume `chunks` while they equal the existing file; return the equal bytes and the first piece that differs.

    Equal bytes go into `digest`. An empty piece means that none differed. Unreadable bytes of the existing file differ.
    """
    same = dropped = 0
    for chunk in chunks:
        # Of bytes: a memoryview compares one at a time.
        if _read(existing, len(chunk), same) != bytes(chunk):
            return same, chunk
        digest.update(chunk)
        same += len(chunk)
        if same - dropped >= page_cache.WINDOW_BYTES:
            page_cache.drop_read(existing, dropped, same - dropped)
            dropped = same
    return same, b""


def link_file(existing: int, directory: int, name: str) -> bool:
    """Give the existing file another name in the open `directory`; False if it cannot have one.

    The link is made by descriptor: it is the file that was compared, even if its version was removed meanwhile.
    """
    try:
        os.link(f"/proc/self/fd/{existing}", name, dst_dir_fd=directory, follow_symlinks=True)
    except OSError:
        return False
    return True


def copy_prefix(existing: int, to: int, size: int) -> None:
    """Fill the empty file `to` with the first bytes of the existing one; `to` then stands behind them.

    The kernel shares the blocks by itself where the file system can (copy_file_range(2), since Linux 5.3).
    """
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(existing, to, size - done, done)
        except OSError:
            count = os.sendfile(to, existing, done, size - done)
        if not count:
            raise OSError(errno.EIO, "a file became shorter while it was read")
        done += count


def read_chunks(descriptor: int) -> Iterator[bytes]:
    """Yield a file's content."""
    offset = 0
    while data := os.pread(descriptor, _CHUNK, offset):
        yield data
        offset += len(data)


def new_digest() -> Digest:
    return hashlib.sha256(usedforsecurity=False)


def _read(existing: int, size: int, offset: int) -> bytes | None:
    """Read a part of a file; None on a disk error, which must not stop the new version."""
    try:
        return os.pread(existing, size, offset)
    except OSError:
        return None


def _is_unchanged(descriptor: int, file: file_manifest.File) -> bool:
    status = os.fstat(descriptor)
    return (status.st_mode, status.st_size) == (stat.S_IFREG | file.mode, file.size)


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _common_suffix_length(one: str, other: str) -> int:
    """Return the number of equal last parts of two paths."""
    count = 0
    for left, right in zip(reversed(one.split("/")), reversed(other.split("/")), strict=False):
        if left != right:
            break
        count += 1
    return count
