"""Writes a package's entries as a tree on the disk, by root from content that root does not trust.

A package format reads: it makes a checked `EntryIndex`, and hands over each file's mode and content. Modes, hashes,
the file manifest, hard links and the cleanup after a failure are the same for all formats and decided here.

Every name is created relative to the descriptor of its directory, with `O_NOFOLLOW` and `O_EXCL`, so that a
name can neither lead elsewhere nor replace anything, even if the check of names missed it.
Directories come first, links last: while files are written the tree has no link at all. Directories are
opened one by one rather than by `openat2`, which nodes with a kernel before 5.6 lack.

Modes are given at creation, and set on descriptors where the umask, which belongs to the whole process, took bits away.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from oneagent.common import fsync, page_cache, unpack
from oneagent.common.unpack import dedup, file_manifest
from oneagent.common.unpack.entry_index import EntryIndex

OnWritten = Callable[[int], object]
"""Receives the number of bytes of each written piece."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_mode(mode: int) -> int:
    """Return the mode of an unpacked file: no setuid, readable for all users, writable for the owner only.

    A pod runs as any user id and has to load all of its agent; it writes to new files in its upper layer.
    """
    return mode & 0o755 | 0o444


class TreeWriter:
    """A directory that is being filled. `open_directory` and `write_file` may be called from several threads."""

    def __init__(self, root: Path) -> None:
        self._fd = os.open(root, _DIRECTORY)

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def open_directory(self, path: str) -> Iterator[int]:
        """Open a directory of the tree; "" is the tree itself."""
        fd = os.dup(self._fd)
        try:
            for part in path.split("/") if path else ():
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def make_directories(self, paths: Iterable[str]) -> None:
        """Make all directories of the tree; the tree itself ("") gets the mode of a directory too."""
        for path in sorted(paths):
            above, _, name = path.rpartition("/")
            if name:
                with self.open_directory(above) as fd:
                    os.mkdir(name, file_manifest.DIRECTORY_MODE, dir_fd=fd)
            with self.open_directory(path) as fd:
                _set_mode(fd, file_manifest.DIRECTORY_MODE)

    def write_file(
        self,
        directory: int,
        path: str,
        mode: int,
        chunks: Iterable[bytes | memoryview],
        prefix: dedup.Prefix | None = None,
    ) -> file_manifest.File:
        """Write a file into the open `directory` and return its record. Nothing is synced.

        `prefix` is the file's existing beginning; `chunks` are then the rest.
        """
        digest = prefix.digest if prefix else dedup.new_digest()
        fd = os.open(path.rpartition("/")[2], _NEW, mode, dir_fd=directory)
        try:
            size, cache = 0, page_cache.WriteTracker(fd)
            if prefix:
                dedup.copy_prefix(prefix.existing, fd, prefix.size)
                size = prefix.size
            for chunk in chunks:
                digest.update(chunk)
                size += _write(fd, chunk)
                cache.advance_to(size)
            _set_mode(fd, mode)
        finally:
            os.close(fd)
        return file_manifest.File(path=path, size=size, mode=mode, sha256=digest.hexdigest())

    def read_prefix(self, path: str, count: int) -> bytes:
        """Return the first bytes of a file of the tree."""
        above, _, name = path.rpartition("/")
        with self.open_directory(above) as directory:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                return os.pread(fd, count, 0)
            finally:
                os.close(fd)

    def make_link(self, path: str, target: str) -> file_manifest.Link:
        """Make a symbolic link; its target has been checked, and all other entries are there."""
        above, _, name = path.rpartition("/")
        with self.open_directory(above) as fd:
            os.symlink(target, name, dir_fd=fd)
        return file_manifest.Link(path=path, target=target)

    def make_hard_link(self, path: str, first: str) -> None:
        """Give a file of the tree another name."""
        with (
            self.open_directory(first.rpartition("/")[0]) as source,
            self.open_directory(path.rpartition("/")[0]) as target,
        ):
            os.link(
                *(first.rpartition("/")[2], path.rpartition("/")[2]),
                src_dir_fd=source,
                dst_dir_fd=target,
                follow_symlinks=False,
            )

    def remove_file(self, path: str) -> None:
        """Remove a file of the tree."""
        above, _, name = path.rpartition("/")
        with self.open_directory(above) as fd:
            os.unlink(name, dir_fd=fd)

    def remove_directories(self, paths: Iterable[str]) -> None:
        """Remove empty directories of the tree, the lowest first."""
        for path in sorted(paths, reverse=True):
            above, _, name = path.rpartition("/")
            with self.open_directory(above) as fd:
                os.rmdir(name, dir_fd=fd)

    def replace_with_link(self, directory: int, path: str, existing: int) -> bool:
        """Replace a file with a link to the open file `existing`; True if that succeeded."""
        temporary = f".{threading.get_ident()}"
        if not dedup.link_file(existing, self._fd, temporary):
            return False
        os.rename(temporary, path.rpartition("/")[2], src_dir_fd=self._fd, dst_dir_fd=directory)
        return True

    def drop_page_cache(self, paths: Iterable[str]) -> None:
        """Give back the page cache of files that have been synced. Deferred links are missing, and skipped."""
        for path in paths:
            above, _, name = path.rpartition("/")
            with self.open_directory(above) as fd:
                try:
                    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                except FileNotFoundError:
                    continue
                try:
                    page_cache.drop_read(file, 0, 0)
                finally:
                    os.close(file)


class FileWriter:
    """Writes the files of one tree, or links existing ones. May be used from several threads.

    Links may be deferred (see `dedup.DeferredLinks`); the tree lacks their files then.
    """

    def __init__(
        self,
        tree: TreeWriter,
        sizes: Mapping[str, int],
        existing: dedup.ExistingFiles,
        on_written: OnWritten | None = None,
    ) -> None:
        self.tree = tree
        self._sizes = sizes
        self._existing = existing
        self._on_written = on_written

    def write(self, directory: int, path: str, mode: int, chunks: Iterable[bytes | memoryview]) -> file_manifest.File:
        """Write a file into the open `directory` of the tree and return its record. Nothing is synced.

        `mode` is the package's. An error of `chunks` leaves a part of the file, and ends the tree.
        """
        mode = file_mode(mode)
        if self._on_written is not None:
            chunks = _reporting(chunks, self._on_written)
        similar = self._existing.find_similar(path, self._sizes.get(path, -1), mode)
        if similar is None:
            return self._deduplicate(directory, self.tree.write_file(directory, path, mode, chunks))
        with dedup.open_candidate(similar) as existing:
            if existing is None:
                return self._deduplicate(directory, self.tree.write_file(directory, path, mode, chunks))
            coming, digest = iter(chunks), dedup.new_digest()
            same, other = dedup.compare_prefix(existing, coming, digest)
            whole = (same, digest.hexdigest()) == (similar.file.size, similar.file.sha256) and not other
            if whole and self._link(directory, path, similar, existing):
                self._existing.count_shared(same)
                return file_manifest.File(path, same, mode, similar.file.sha256)
            rest = itertools.chain((other,), coming)
            file = self.tree.write_file(directory, path, mode, rest, dedup.Prefix(existing, same, digest))
        return file if whole else self._deduplicate(directory, file)

    def make_hard_link(self, path: str, first: str) -> None:
        """Give a file of the tree another name."""
        if self._existing.deferred is None:
            self.tree.make_hard_link(path, first)
        else:
            self._existing.deferred.of[path] = (None, first)

    def read_prefix(self, path: str, count: int) -> bytes:
        """Return the first bytes of a file of the tree, which may be a deferred link."""
        if self._existing.deferred is not None:
            existing, path = self._existing.deferred.find_origin(path)
            if existing is not None:
                with TreeWriter(existing) as tree:
                    return tree.read_prefix(path, count)
        return self.tree.read_prefix(path, count)

    def _link(self, directory: int, path: str, candidate: dedup.Candidate, existing: int) -> bool:
        if self._existing.deferred is None:
            return dedup.link_file(existing, directory, path.rpartition("/")[2])
        self._existing.deferred.of[path] = (candidate.tree, candidate.file.path)
        return True

    def _replace(self, directory: int, path: str, candidate: dedup.Candidate, existing: int) -> bool:
        if self._existing.deferred is None:
            return self.tree.replace_with_link(directory, path, existing)
        os.unlink(path.rpartition("/")[2], dir_fd=directory)
        return self._link(directory, path, candidate, existing)

    def _deduplicate(self, directory: int, file: file_manifest.File) -> file_manifest.File:
        """Replace a written file with a link to an equal existing one."""
        equal = self._existing.find_equal(file) if file.size else None
        if equal is None:
            return file
        with dedup.open_candidate(equal) as existing:
            if (
                existing is not None
                and self._has_equal_content(directory, file, existing)
                and self._replace(directory, file.path, equal, existing)
            ):
                self._existing.count_shared(file.size)
        return file

    def _has_equal_content(self, directory: int, file: file_manifest.File, existing: int) -> bool:
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        written = os.open(file.path.rpartition("/")[2], how, dir_fd=directory)
        try:
            same, other = dedup.compare_prefix(existing, dedup.read_chunks(written), dedup.new_digest())
        finally:
            os.close(written)
        return same == file.size and not other


@dataclass(frozen=True, slots=True)
class UnpackedAgent:
    """An agent on the disk, ready to be synced and renamed."""

    root: Path
    """The agent's root: the scratch directory or one below it. Everything beside it may be deleted."""
    manifest: file_manifest.Manifest
    unpacked_bytes: int

    def make_durable(self) -> None:
        """Make the tree durable and give its page cache back: the last step before the rename."""
        try:
            fsync.sync_tree(self.root)
            with TreeWriter(self.root) as tree:
                tree.drop_page_cache(file.path for file in self.manifest.files)
        except OSError as error:
            raise unpack.UnpackFailedError.from_os_error(f"{self.root} cannot be synced", error) from error


def write_tree(
    into: Path,
    index: EntryIndex,
    write_files: Callable[[FileWriter], Iterable[file_manifest.File]],
    existing: dedup.ExistingFiles | None = None,
    on_written: OnWritten | None = None,
    made: Set[str] = frozenset(),
) -> file_manifest.Manifest:
    """Write the entries of `index` into the directory `into`, files by `write_files`; after any error `into` is empty.

    The directory is made if it is absent, and has to be empty otherwise, but for the directories `made`, and files
    below them that `write_files` knows of. Files that are in `existing` are linked. `on_written` is called from any
    thread.
    """
    into.mkdir(exist_ok=True)
    if not made and any(into.iterdir()):
        raise FileExistsError(errno.EEXIST, "the directory is not empty", str(into))
    try:
        with TreeWriter(into) as tree:
            tree.make_directories(index.directories - made)
            files = sorted(
                write_files(FileWriter(tree, index.files, existing or dedup.ExistingFiles(), on_written)),
                key=lambda file: file.path,
            )
            links = [tree.make_link(path, target) for path, target in sorted(index.links.items())]
    except BaseException:
        empty_directory(into)
        raise
    return file_manifest.Manifest(files=files, links=links, directories=sorted(index.directories - {""}))


def _reporting(chunks: Iterable[bytes | memoryview], on_written: OnWritten) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        yield chunk
        on_written(len(chunk))


def empty_directory(directory: Path) -> None:
    """Remove everything in a directory."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _set_mode(fd: int, mode: int) -> None:
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        os.fchmod(fd, mode)


def _write(fd: int, chunk: bytes | memoryview) -> int:
    """Write all of it: the kernel may write a part, when the disk is nearly full or a signal comes in."""
    done = os.write(fd, chunk)
    while done < len(chunk):
        done += os.write(fd, memoryview(chunk)[done:])
    return len(chunk)
