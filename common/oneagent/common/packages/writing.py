"""The one way from a package's entries to a tree on the disk, whatever the package's format.

A format reads: it makes an `Outline` that has been checked, and hands over each file's mode and content. What
is kept of a mode, how a file is hashed, what the manifest says, and that a failure leaves nothing behind, is
the same for all of them and decided here and in `trees`.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from oneagent.common import packages
from oneagent.common.packages import treemanifests, trees


class Writer:
    """Writes the files of one tree. May be used from several threads."""

    def __init__(self, tree: trees.Tree) -> None:
        self.tree = tree

    def write(self, folder: int, path: str, mode: int, chunks: Iterable[bytes | memoryview]) -> treemanifests.File:
        """Write a file into the open `folder` of the tree; returns what was written. Nothing is synced.

        `mode` is the package's. An error of `chunks` leaves a part of the file, and ends the tree.
        """
        return self.tree.write(folder, path, trees.file_mode(mode), chunks)


def fill(
    into: Path, outline: packages.Outline, write_files: Callable[[Writer], Iterable[treemanifests.File]]
) -> treemanifests.Manifest:
    """Make `into` hold what `outline` lists, files by `write_files`; whatever is raised, `into` is empty then.

    The folder is made if it is absent, and has to be empty otherwise.
    """
    into.mkdir(exist_ok=True)
    if any(into.iterdir()):
        raise FileExistsError(errno.EEXIST, "the folder is not empty", str(into))
    try:
        with trees.Tree(into) as tree:
            tree.make_folders(outline.directories)
            files = sorted(write_files(Writer(tree)), key=lambda file: file.path)
            links = [tree.link(path, target) for path, target in sorted(outline.links.items())]
    except BaseException:
        _empty(into)
        raise
    return treemanifests.Manifest(files=files, links=links, directories=sorted(outline.directories - {""}))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
