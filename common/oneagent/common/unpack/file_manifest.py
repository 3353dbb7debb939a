"""What a version in the agent store has to look like, written down when it was unpacked.

A version is shared by every pod of a node, and a version never changes: whether that still holds can be
asked at any time by comparing the tree with its manifest. Paths are relative to the agent's root, so a
manifest says the same on every node. Hashes are made while the files are written and cost no second read.

    TreeManifestError               a manifest that cannot be read, or is not one
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from oneagent.common import fsync, page_cache

DIRECTORY_MODE: Final = 0o1777
"""A view must be writable for whatever user a pod has, and a folder in the upper layer gets its mode from the
lower one. Sticky, so that no user removes what is another's."""

_CHUNK: Final = 1 << 20

Problem = Literal["missing", "unexpected", "type", "mode", "size", "content", "target", "unreadable"]


class TreeManifestError(Exception):
    """The manifest cannot be used; unpack the version again to get a new one."""


class File(msgspec.Struct, frozen=True, gc=False):
    """A file; `mode` are its permission bits, `sha256` is in hex."""

    path: str
    size: int
    mode: int
    sha256: str


class Link(msgspec.Struct, frozen=True, gc=False):
    """A symbolic link; the target is relative to the link."""

    path: str
    target: str


class Manifest(msgspec.Struct, frozen=True):
    """Everything below an agent's root, each list sorted by path; the root itself is not listed."""

    files: list[File]
    links: list[Link]
    directories: list[str]
    format: Literal[1] = 1

    @property
    def unpacked_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def dump(self, path: Path) -> None:
        """Write the manifest, whole and durable or not at all. `OSError` if the disk refuses."""
        fsync.replace(path, msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise TreeManifestError(f"{path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TreeManifestError(f"{path} is not a manifest: {error}") from error


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One difference between a tree and its manifest; "" is the path of the tree itself."""

    path: str
    problem: Problem
    detail: str = ""


def verify(
    tree: Path,
    manifest: Manifest,
    *,
    bytes_per_second: float | None = None,
    most: int = 100,
    cancelled: Callable[[], bool] | None = None,
) -> list[Finding]:
    """How `tree` differs from `manifest`, at most the first `most` findings; [] if it does not.

    `bytes_per_second` bounds the reading, so that a check in the background leaves the disk to others. A file
    that vanishes or cannot be read is a finding, not an error. Once `cancelled()`, what was found so far.
    """
    pace = _Pace(bytes_per_second, cancelled or (lambda: False))
    found: list[Finding] = []
    for finding in _differences(tree, manifest, pace):
        found.append(finding)
        if len(found) >= most:
            break
    return found


def _differences(tree: Path, manifest: Manifest, pace: _Pace) -> Iterator[Finding]:
    missing: dict[str, File | Link | None] = dict.fromkeys(manifest.directories)
    missing.update((file.path, file) for file in manifest.files)
    missing.update((link.path, link) for link in manifest.links)
    if not tree.is_dir():
        yield Finding("", "missing")
        return
    for above, folders, files, fd in os.fwalk(tree):
        for name in sorted(folders + files):
            if pace.cancelled():
                return
            path = os.path.relpath(f"{above}/{name}", tree)
            if path not in missing:
                yield Finding(path, "unexpected")
                folders[:] = [folder for folder in folders if folder != name]
                continue
            try:
                yield from _compare(path, missing.pop(path), name, fd, pace)
            except OSError as error:
                yield Finding(path, "unreadable", error.strerror or "")
    for path in sorted(missing):
        yield Finding(path, "missing")


def _compare(path: str, want: File | Link | None, name: str, folder: int, pace: _Pace) -> Iterator[Finding]:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = stat.S_IFDIR if want is None else stat.S_IFREG if isinstance(want, File) else stat.S_IFLNK
    mode = want.mode if isinstance(want, File) else DIRECTORY_MODE
    if stat.S_IFMT(found.st_mode) != kind:
        yield Finding(path, "type", stat.filemode(found.st_mode))
        return
    if isinstance(want, Link):
        if (target := os.readlink(name, dir_fd=folder)) != want.target:
            yield Finding(path, "target", f"{target} instead of {want.target}")
        return
    if stat.S_IMODE(found.st_mode) != mode:
        yield Finding(path, "mode", f"{stat.S_IMODE(found.st_mode):o} instead of {mode:o}")
    if want is None:
        return
    if found.st_size != want.size:
        yield Finding(path, "size", f"{found.st_size} instead of {want.size}")
    elif (digest := _hash(name, folder, pace)) not in (want.sha256, None):
        yield Finding(path, "content", f"sha256 {digest} instead of {want.sha256}")


def _hash(name: str, folder: int, pace: _Pace) -> str | None:
    """SHA-256 in hex, or None if the check was cancelled."""
    digest = hashlib.sha256(usedforsecurity=False)
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        offset = dropped = 0
        while data := os.pread(fd, _CHUNK, offset):
            digest.update(data)
            offset += len(data)
            # What a running agent has mapped stays in memory; only what this check has read goes.
            if offset - dropped >= page_cache.WINDOW_BYTES:
                page_cache.drop_read(fd, dropped, offset - dropped)
                dropped = offset
            pace.spend(len(data))
            if pace.cancelled():
                return None
        page_cache.drop_read(fd, dropped, 0)
    finally:
        os.close(fd)
    return digest.hexdigest()


class _Pace:
    """Sleeps so that no more is spent than the rate since the start allows."""

    def __init__(self, bytes_per_second: float | None, cancelled: Callable[[], bool]) -> None:
        self.cancelled = cancelled
        self._rate = bytes_per_second
        self._start = time.monotonic()
        self._spent = 0

    def spend(self, count: int) -> None:
        self._spent += count
        if self._rate:
            time.sleep(max(0.0, self._start + self._spent / self._rate - time.monotonic()))
