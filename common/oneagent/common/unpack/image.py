"""Unpacks the layers of an image into a tree: completely, or not at all.

Layers are read twice. The first pass keeps only the list of entries. So the names, sizes and checksums of all layers
are verified, and the needed space is known, before the first byte is written; and a file that a later layer
replaces is never written. The second pass writes the remaining files in the order in which they come. A second
decompression costs less than writing files and deleting them again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import (
    agent_layout,
    decompress,
    dedup,
    entry_index,
    file_manifest,
    layer_merge,
    tar_reader,
    tree_writer,
)

_T = TypeVar("_T")
_TAR_OVERHEAD: Final = 2048
"""Bytes of a tar for each allowed entry, beside its content: a header, padding, and a part of an extended header."""


@dataclass(frozen=True, slots=True)
class ImagePackage:
    """Layers that have been read and have an agent."""

    layers: tuple[common_unpack.PackageFile, ...]
    plan: layer_merge.Plan
    root: str
    """The agent's directory within the index."""
    max_bytes: int

    @property
    def unpacked_size(self) -> int:
        """Bytes that it takes on a disk, for the free-space check."""
        return self.plan.index.disk_bytes

    def unpack(
        self,
        scratch: Path,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        existing: dedup.ExistingFiles | None = None,
        on_written: tree_writer.OnWritten | None = None,
    ) -> tree_writer.UnpackedAgent:
        """Unpack the agent into `scratch`, as `zip.unpack_agent` does with a zip.

        `threads` is ignored: the files of a layer come one after the other.
        """

        def write_files(writer: tree_writer.FileWriter) -> list[file_manifest.File]:
            written: list[file_manifest.File] = []
            for number, layer in enumerate(self.layers):
                written += self._write_layer(number, layer, budget, writer, cancelled or _never)
            agent_layout.check_machine(
                writer.read_prefix(agent_layout.library_path(self.root), agent_layout.HEADER_BYTES)
            )
            return written

        budget = decompress.Budget(self.max_bytes)
        with _map_disk_errors("the image cannot be unpacked"):
            whole = tree_writer.write_tree(scratch, self.plan.index, write_files, existing, on_written)
        manifest = whole.subtree(self.root)
        return tree_writer.UnpackedAgent(scratch / self.root, manifest, manifest.unpacked_bytes)

    def _write_layer(
        self,
        number: int,
        layer: common_unpack.PackageFile,
        budget: decompress.Budget,
        writer: tree_writer.FileWriter,
        cancelled: Callable[[], bool],
    ) -> Iterator[file_manifest.File]:
        contents = {content.entry: content for content in self.plan.files if content.layer == number}
        if not contents:
            return
        last = max(contents)
        with decompress.open_layer(layer, budget) as stream:
            tar = tar_reader.TarReader(stream)
            for position, entry in enumerate(_cancellable(tar, cancelled)):
                if content := contents.get(position):
                    if (entry.kind, entry.size) != (tar_reader.Kind.FILE, content.size):
                        raise common_unpack.CorruptPackageError("a layer has changed since it was read")
                    yield from self._write(content, tar, writer, cancelled)
                if position == last:
                    return

    def _write(
        self,
        content: layer_merge.Content,
        tar: tar_reader.TarReader,
        writer: tree_writer.FileWriter,
        cancelled: Callable[[], bool],
    ) -> Iterator[file_manifest.File]:
        first, *others = self.plan.files[content]
        with writer.tree.open_directory(entry_index.parent_path(first)) as directory:
            written = writer.write(directory, first, content.mode, _cancellable(tar.chunks(), cancelled))
        yield written
        for path in others:
            writer.make_hard_link(path, first)
            yield msgspec.structs.replace(written, path=path)


def read(
    layers: Sequence[common_unpack.PackageFile],
    *,
    limits: common_unpack.UnpackLimits | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ImagePackage:
    """Read an image's layers, lowest first. `PackageError` if they are refused."""
    limits = limits or common_unpack.UnpackLimits()
    with _map_disk_errors("the image cannot be read"):
        size = sum(os.stat(layer).st_size for layer in layers)
        max_bytes = limits.max_unpacked_bytes(size) + _TAR_OVERHEAD * limits.entries
        merged = layer_merge.LayerMerge(limits)
        budget = decompress.Budget(max_bytes)
        for layer in layers:
            with decompress.open_layer(layer, budget) as stream:
                merged.add_layer(_cancellable(tar_reader.TarReader(stream), cancelled or _never))
    plan = merged.plan(size)
    root = agent_layout.prepare(plan.index)
    return ImagePackage(tuple(layers), plan, root, max_bytes)


@contextlib.contextmanager
def _map_disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise common_unpack.UnpackFailedError.from_os_error(what, error) from error


def _cancellable(things: Iterable[_T], cancelled: Callable[[], bool]) -> Iterator[_T]:
    for thing in things:
        if cancelled():
            raise common_unpack.UnpackCancelledError("unpacking was cancelled")
        yield thing


def _never() -> bool:
    return False
