"""A new version shares with those that are there every file that is the same, instead of storing it again.

Most files of two versions are equal, and a version never changes; so a file may have a name in each of them (a hard
link): it lies on the disk once, and in the page cache once for the pods of both. The manifest of a version that is
there names a twin for each new file: by its SHA-256, or before that is known by its size and name, since directories are
named after versions. That is only a hint: what the package unpacks to is compared with the twin's bytes as it comes,
and nothing is written while they are equal. So a twin that a disk has damaged is never shared again.

Links share more than the content. Permissions have to be equal too; owner and group are always root's. The time of
the last change stays that of the first version, which nobody asks for. Where a file can't have another name (the most
that it can have, or a file system without links) its blocks are shared if the file system can do that, else copied.
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
"""What has taken the place of a file may be a pipe, which nobody waits for."""


class Digest(Protocol):
    """A hash that is being made."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Candidate(NamedTuple):
    """A file that is there, and may be the same."""

    tree: Path
    file: file_manifest.File


class Prefix(NamedTuple):
    """The first `size` bytes of a new file, and their hash: they are those of the open file `twin`."""

    existing: int
    size: int
    digest: Digest


class ExistingFiles:
    """The files of the trees that are there, for one that is being unpacked. Thread-safe."""

    def __init__(self, versions: Iterable[tuple[Path, file_manifest.Manifest]] = ()) -> None:
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
        """A file of so many bytes did not have to be stored again."""
        with self._guard:
            self.shared_bytes += size

    def find_similar(self, path: str, size: int, mode: int) -> Candidate | None:
        """What is probably the same as a new file, by its name and those of its directories."""
        similar = self._by_name.get((size, mode, _base_name(path)), ())
        return max(similar, key=lambda candidate: _common_suffix_length(candidate.file.path, path), default=None)

    def find_equal(self, file: file_manifest.File) -> Candidate | None:
        """What has the same content and permissions."""
        return self._by_content.get((file.sha256, file.mode))


@contextlib.contextmanager
def open_candidate(candidate: Candidate) -> Iterator[int | None]:
    """A descriptor of the twin's file; None if it is gone, or isn't what its manifest says any more."""
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
    """Take from `chunks` what is equal to the twin's file: how many bytes, and the first piece that is not.

    What is equal goes into `digest`. An empty piece says that no other came. What can't be read of the twin
    is not equal.
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
    """Give the twin's file another name, in the open `directory`; False if it can't have one.

    Linked by its descriptor: it is the file that was compared, whatever has taken its place or removed its version.
    """
    try:
        os.link(f"/proc/self/fd/{existing}", name, dst_dir_fd=directory, follow_symlinks=True)
    except OSError:
        return False
    return True


def copy_prefix(existing: int, to: int, size: int) -> None:
    """Begin the empty file `to` with the first bytes of the twin's; `to` then stands behind them.

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
    """A file's content."""
    offset = 0
    while data := os.pread(descriptor, _CHUNK, offset):
        yield data
        offset += len(data)


def new_digest() -> Digest:
    return hashlib.sha256(usedforsecurity=False)


def _read(existing: int, size: int, offset: int) -> bytes | None:
    """A part of a file; None where the disk has lost it, which is no reason to do without the new one."""
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
    """How many last parts of two paths are equal."""
    count = 0
    for left, right in zip(reversed(one.split("/")), reversed(other.split("/")), strict=False):
        if left != right:
            break
        count += 1
    return count
