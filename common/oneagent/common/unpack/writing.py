"""The one way from a package's entries to a tree on the disk, whatever the package's format.

A format reads: it makes an `EntryIndex` that has been checked, and hands over each file's mode and content. What
is kept of a mode, how a file is hashed, what the manifest says, and that a failure leaves nothing behind, is
the same for all of them and decided here and in `trees`.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from oneagent.common import unpack
from oneagent.common.unpack import dedup, file_manifest, tree_writer

Wrote = Callable[[int], object]
"""Told that so many more bytes of files are there."""


class Writer:
    """Writes the files of one tree, or links what is `present`. May be used from several threads."""

    def __init__(
        self, tree: tree_writer.Tree, sizes: Mapping[str, int], present: dedup.ExistingFiles, wrote: Wrote | None = None
    ) -> None:
        self.tree = tree
        self._sizes = sizes
        self._present = present
        self._wrote = wrote

    def write(self, folder: int, path: str, mode: int, chunks: Iterable[bytes | memoryview]) -> file_manifest.File:
        """Write a file into the open `folder` of the tree; returns what was written. Nothing is synced.

        `mode` is the package's. An error of `chunks` leaves a part of the file, and ends the tree.
        """
        mode, name = tree_writer.file_mode(mode), path.rpartition("/")[2]
        if self._wrote is not None:
            chunks = _told(chunks, self._wrote)
        alike = self._present.like(path, self._sizes.get(path, -1), mode)
        if alike is None:
            return self._shared(folder, self.tree.write(folder, path, mode, chunks))
        with dedup.opened(alike) as twin:
            if twin is None:
                return self._shared(folder, self.tree.write(folder, path, mode, chunks))
            coming, digest = iter(chunks), dedup.new_digest()
            same, other = dedup.compare(twin, coming, digest)
            whole = (same, digest.hexdigest()) == (alike.file.size, alike.file.sha256) and not other
            if whole and dedup.link(twin, folder, name):
                self._present.shared(same)
                return file_manifest.File(path, same, mode, alike.file.sha256)
            rest = itertools.chain((other,), coming)
            file = self.tree.write(folder, path, mode, rest, dedup.Prefix(twin, same, digest))
        return file if whole else self._shared(folder, file)

    def _shared(self, folder: int, file: file_manifest.File) -> file_manifest.File:
        """A file that was written, and turns out to be there under another name."""
        known = self._present.same(file) if file.size else None
        if known is None:
            return file
        with dedup.opened(known) as twin:
            if twin is not None and self._equal(folder, file, twin) and self.tree.exchange(folder, file.path, twin):
                self._present.shared(file.size)
        return file

    def _equal(self, folder: int, file: file_manifest.File, twin: int) -> bool:
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        written = os.open(file.path.rpartition("/")[2], how, dir_fd=folder)
        try:
            same, other = dedup.compare(twin, dedup.chunks_of(written), dedup.new_digest())
        finally:
            os.close(written)
        return same == file.size and not other


def fill(
    into: Path,
    outline: unpack.EntryIndex,
    write_files: Callable[[Writer], Iterable[file_manifest.File]],
    present: dedup.ExistingFiles | None = None,
    wrote: Wrote | None = None,
) -> file_manifest.Manifest:
    """Make `into` hold what `outline` lists, files by `write_files`; whatever is raised, `into` is empty then.

    The folder is made if it is absent, and has to be empty otherwise. Files that are `present` are linked. `wrote`
    is told how many bytes of files are there, piece by piece and from any thread.
    """
    into.mkdir(exist_ok=True)
    if any(into.iterdir()):
        raise FileExistsError(errno.EEXIST, "the folder is not empty", str(into))
    try:
        with tree_writer.Tree(into) as tree:
            tree.make_folders(outline.directories)
            files = sorted(
                write_files(Writer(tree, outline.files, present or dedup.ExistingFiles(), wrote)),
                key=lambda file: file.path,
            )
            links = [tree.link(path, target) for path, target in sorted(outline.links.items())]
    except BaseException:
        _empty(into)
        raise
    return file_manifest.Manifest(files=files, links=links, directories=sorted(outline.directories - {""}))


def _told(chunks: Iterable[bytes | memoryview], wrote: Wrote) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        yield chunk
        wrote(len(chunk))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
