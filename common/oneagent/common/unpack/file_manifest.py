"""File manifest of a version: its files with SHA-256, links and directories, written when it was unpacked.

A version is shared by every pod of a node and never changes. Comparing the tree with its file manifest verifies that
at any time. Paths are relative to the agent's root, so the manifest is the same on every node. Hashes are made while
the files are written and cost no second read.

    TreeManifestError               unreadable, or not a file manifest
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

from oneagent.common import fsync, page_cache, typed_json

DIRECTORY_MODE: Final = 0o1777
"""A view must be writable for a pod's user, and a directory in the upper layer gets its mode from the lower one.
Sticky, so that no user removes files of another."""

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

    def subtree(self, root: str) -> Manifest:
        """Return the manifest of the directory `root` of this tree; "" is the tree itself."""
        if not root:
            return self
        start = f"{root}/"
        return Manifest(
            files=[
                File(file.path.removeprefix(start), file.size, file.mode, file.sha256)
                for file in self.files
                if file.path.startswith(start)
            ],
            links=[
                Link(link.path.removeprefix(start), link.target) for link in self.links if link.path.startswith(start)
            ],
            directories=[path.removeprefix(start) for path in self.directories if path.startswith(start)],
        )

    def dump(self, path: Path) -> None:
        """Write the manifest atomically and durably. `OSError` if the disk fails."""
        fsync.replace(path, msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        try:
            return typed_json.decode(path.read_bytes(), cls)
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
    limit: int = 100,
    cancelled: Callable[[], bool] | None = None,
    on_read: Callable[[int], None] = lambda _bytes: None,
) -> list[Finding]:
    """Return the differences between `tree` and `manifest`, at most the first `limit`.

    `bytes_per_second` bounds the reading, so that a check in the background leaves the disk to others. A file
    that vanishes or cannot be read is a finding, not an error. Once `cancelled()`, returns the findings so far.
    `on_read` gets the number of bytes of each piece.
    """
    limiter = _RateLimiter(bytes_per_second, cancelled or (lambda: False), on_read)
    findings: list[Finding] = []
    for finding in _find_differences(tree, manifest, limiter):
        findings.append(finding)
        if len(findings) >= limit:
            break
    return findings


def _find_differences(tree: Path, manifest: Manifest, limiter: _RateLimiter) -> Iterator[Finding]:
    missing: dict[str, File | Link | None] = dict.fromkeys(manifest.directories)
    missing.update((file.path, file) for file in manifest.files)
    missing.update((link.path, link) for link in manifest.links)
    if not tree.is_dir():
        yield Finding("", "missing")
        return
    for above, directories, files, fd in os.fwalk(tree):
        for name in sorted(directories + files):
            if limiter.cancelled():
                return
            path = os.path.relpath(f"{above}/{name}", tree)
            if path not in missing:
                yield Finding(path, "unexpected")
                directories[:] = [directory for directory in directories if directory != name]
                continue
            try:
                yield from _compare_entry(path, missing.pop(path), name, fd, limiter)
            except OSError as error:
                yield Finding(path, "unreadable", error.strerror or "")
    for path in sorted(missing):
        yield Finding(path, "missing")


def _compare_entry(
    path: str, expected: File | Link | None, name: str, directory: int, limiter: _RateLimiter
) -> Iterator[Finding]:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = stat.S_IFDIR if expected is None else stat.S_IFREG if isinstance(expected, File) else stat.S_IFLNK
    mode = expected.mode if isinstance(expected, File) else DIRECTORY_MODE
    if stat.S_IFMT(status.st_mode) != kind:
        yield Finding(path, "type", stat.filemode(status.st_mode))
        return
    if isinstance(expected, Link):
        if (target := os.readlink(name, dir_fd=directory)) != expected.target:
            yield Finding(path, "target", f"{target} instead of {expected.target}")
        return
    if stat.S_IMODE(status.st_mode) != mode:
        yield Finding(path, "mode", f"{stat.S_IMODE(status.st_mode):o} instead of {mode:o}")
    if expected is None:
        return
    if status.st_size != expected.size:
        yield Finding(path, "size", f"{status.st_size} instead of {expected.size}")
    elif (digest := _hash_file(name, directory, limiter)) not in (expected.sha256, None):
        yield Finding(path, "content", f"sha256 {digest} instead of {expected.sha256}")


def _hash_file(name: str, directory: int, limiter: _RateLimiter) -> str | None:
    """Return the SHA-256 in hex, or None if the check was cancelled."""
    digest = hashlib.sha256(usedforsecurity=False)
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        offset = dropped = 0
        while data := os.pread(fd, _CHUNK, offset):
            digest.update(data)
            offset += len(data)
            # Pages that a running agent has mapped stay in memory; only those that this check read are dropped.
            if offset - dropped >= page_cache.WINDOW_BYTES:
                page_cache.drop_read(fd, dropped, offset - dropped)
                dropped = offset
            limiter.spend(len(data))
            if limiter.cancelled():
                return None
        page_cache.drop_read(fd, dropped, 0)
    finally:
        os.close(fd)
    return digest.hexdigest()


class _RateLimiter:
    """Sleeps so that the rate since the start stays below the limit."""

    def __init__(
        self, bytes_per_second: float | None, cancelled: Callable[[], bool], on_read: Callable[[int], None]
    ) -> None:
        self.cancelled = cancelled
        self._on_read = on_read
        self._rate = bytes_per_second
        self._start = time.monotonic()
        self._spent = 0

    def spend(self, count: int) -> None:
        self._spent += count
        self._on_read(count)
        if self._rate:
            time.sleep(max(0.0, self._start + self._spent / self._rate - time.monotonic()))


typed_json.prepare(Manifest)
