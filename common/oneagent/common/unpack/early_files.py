"""Files of an image that are written while its layers are read, so that a layer is decompressed once.

Which entries are the agent's is certain only after all layers: one above may hide a file, and the last entry may be the
one that refuses the image. Layers are read from the highest, so the first file with a path is nearly always the one
that stays. This module relies on nothing: every file of a wrong guess is removed (`keep`), and the package then writes
it, like all that was not written early, in a second reading.

Nothing is written beyond the free space, since the needed space is not known yet. An image that needs more is read
first and written later, once there is room.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from oneagent.common import unpack
from oneagent.common.unpack import agent_layout, dedup, entry_index, file_manifest, layer_merge, tar_reader, tree_writer

_NESTED: Final = f"{agent_layout.NESTED}/"


class EarlyFiles:
    """Early files of one image, in the directory that its agent is unpacked into."""

    def __init__(
        self,
        tree: Path,
        free_bytes: int,
        existing: dedup.ExistingFiles | None = None,
        on_written: tree_writer.OnWritten | None = None,
    ) -> None:
        """`tree` is empty. Files that are in `existing` are linked. `on_written` receives the bytes of each piece."""
        self.tree = tree
        self.directories: set[str] = {""}
        """Those that exist."""
        self._free_bytes = self._left = free_bytes
        self._existing = existing or dedup.ExistingFiles()
        self._on_written = on_written
        self._sizes: dict[str, int] = {}
        self._files: dict[str, tuple[tuple[int, int], file_manifest.File]] = {}
        """By path, with the numbers of the layer and of the entry."""
        self._is_nested = False

    def expect_nested(self) -> None:
        """Begin again, with files of the agent's own directory only."""
        self.discard()
        self._is_nested = True

    def offer(self, layer: int, number: int, entry: tar_reader.Entry, chunks: Iterable[memoryview]) -> None:
        """Write the file of an entry if it probably belongs to the agent; `OSError` or an error of `chunks`."""
        path = self._guess_path(entry)
        if path is None or self._left < 0 or path in self._files or path in self.directories:
            return
        self._left -= entry_index.disk_bytes(entry.size)
        if self._left < 0:
            self._remove_all()
            return
        with tree_writer.TreeWriter(self.tree) as tree:
            if self._make_directories(tree, path):
                self._sizes[path] = entry.size
                writer = tree_writer.FileWriter(tree, self._sizes, self._existing, self._on_written)
                with tree.open_directory(entry_index.parent_path(path)) as directory:
                    self._files[path] = (layer, number), writer.write(directory, path, entry.mode, chunks)

    def keep(self, plan: layer_merge.Plan) -> dict[layer_merge.Content, file_manifest.File]:
        """Remove everything that is not the agent's; return the rest."""
        planned = {(content.layer, content.entry): content for content in plan.files}
        kept = {}
        with tree_writer.TreeWriter(self.tree) as tree:
            for path, (place, file) in self._files.items():
                content = planned.get(place)
                if content is not None and path in plan.files[content]:
                    kept[content] = file
                elif self._existing.deferred is None or self._existing.deferred.of.pop(path, None) is None:
                    tree.remove_file(path)
            unused = self.directories - plan.index.directories
            tree.remove_directories(unused)
            self.directories -= unused
        return kept

    def discard(self) -> None:
        """Remove everything, after an error or to begin again."""
        self._remove_all()
        self._left = self._free_bytes

    def _guess_path(self, entry: tar_reader.Entry) -> str | None:
        """Return the path that the file has in the agent's tree; None if it is none, or probably not the agent's."""
        if entry.kind is not tar_reader.Kind.FILE or entry.problem:
            return None
        try:
            path = entry_index.clean_path(entry.name.lstrip("/"))
        except unpack.PackageError:
            return None
        if layer_merge.is_whiteout(path):
            return None
        if path.startswith(_NESTED):
            if not self._is_nested:
                # The files so far were those of a distribution.
                self.expect_nested()
            return path.removeprefix(_NESTED)
        return None if self._is_nested else path

    def _make_directories(self, tree: tree_writer.TreeWriter, path: str) -> bool:
        """Make the directories above a file; False if one of them is a file."""
        missing = []
        above = entry_index.parent_path(path)
        while above not in self.directories:
            if above in self._files:
                return False
            missing.append(above)
            above = entry_index.parent_path(above)
        tree.make_directories(missing)
        self.directories.update(missing)
        return True

    def _remove_all(self) -> None:
        tree_writer.empty_directory(self.tree)
        if self._existing.deferred is not None:
            self._existing.deferred.of.clear()
        self.directories = {""}
        self._sizes.clear()
        self._files.clear()
