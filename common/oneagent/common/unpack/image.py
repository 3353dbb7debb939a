"""Unpacks the layers of an image into a tree: completely, or not at all.

Layers are read from the highest, and merged when all of them have been read. Until then the names, sizes and checksums
are not verified, the needed space is not known, and a file may be hidden by a whiteout. With `EarlyFiles` files are
nevertheless written as they come, as far as there is room, so that nearly always each layer is decompressed once.
The files that are missing then are written in a second reading; without `EarlyFiles` these are all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import (
    agent_layout,
    decompress,
    dedup,
    early_files,
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
    early: early_files.EarlyFiles | None = None
    written: Mapping[layer_merge.Content, file_manifest.File] = field(default_factory=dict)
    """Files that `early` has written."""

    @property
    def unpacked_size(self) -> int:
        """Bytes that it takes on a disk in addition to the early files, for the free-space check."""
        return self.plan.index.disk_bytes - sum(entry_index.disk_bytes(file.size) for file in self.written.values())

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

        `threads` is ignored: the files of a layer come one after the other. With early files, `scratch` is their tree.
        """

        def write_files(writer: tree_writer.FileWriter) -> list[file_manifest.File]:
            written: list[file_manifest.File] = []
            for content, file in self.written.items():
                written += self._link_names(content, file, writer)
            for number, layer in enumerate(self.layers):
                written += self._write_layer(number, layer, budget, writer, cancelled or _never)
            library = agent_layout.library_path(self.root, self.plan.index)
            agent_layout.check_machine(writer.read_prefix(library, agent_layout.HEADER_BYTES), library=library)
            return written

        budget = decompress.Budget(self.max_bytes)
        made = self.early.directories if self.early else frozenset[str]()
        with _map_disk_errors("the image cannot be unpacked"):
            whole = tree_writer.write_tree(scratch, self.plan.index, write_files, existing, on_written, made)
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
        missing = self.plan.files.keys() - self.written.keys()
        contents = {content.entry: content for content in missing if content.layer == number}
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
        first = self.plan.files[content][0]
        with writer.tree.open_directory(entry_index.parent_path(first)) as directory:
            written = writer.write(directory, first, content.mode, _cancellable(tar.chunks(), cancelled))
        return self._link_names(content, written, writer)

    def _link_names(
        self, content: layer_merge.Content, written: file_manifest.File, writer: tree_writer.FileWriter
    ) -> Iterator[file_manifest.File]:
        """Give a written file the other names of its content."""
        yield written
        for path in self.plan.files[content]:
            if path != written.path:
                writer.make_hard_link(path, written.path)
                yield msgspec.structs.replace(written, path=path)


def read(
    layers: Sequence[common_unpack.PackageFile],
    *,
    limits: common_unpack.UnpackLimits | None = None,
    cancelled: Callable[[], bool] | None = None,
    early: early_files.EarlyFiles | None = None,
) -> ImagePackage:
    """Read an image's layers, lowest first. `PackageError` if they are refused; then there are no early files."""
    try:
        with _map_disk_errors("the image cannot be read"):
            return _read(layers, limits or common_unpack.UnpackLimits(), cancelled or _never, early)
    except BaseException:
        if early:
            early.discard()
        raise


def _read(
    layers: Sequence[common_unpack.PackageFile],
    limits: common_unpack.UnpackLimits,
    cancelled: Callable[[], bool],
    early: early_files.EarlyFiles | None,
) -> ImagePackage:
    size = sum(os.stat(layer).st_size for layer in layers)
    max_bytes = limits.max_unpacked_bytes(size) + _TAR_OVERHEAD * limits.entries
    merged = layer_merge.LayerMerge(limits)
    _read_layers(layers, merged, max_bytes, cancelled, early)
    if merged.is_full:
        if early:
            early.expect_nested()
        merged = layer_merge.LayerMerge(limits, agent_only=True)
        _read_layers(layers, merged, max_bytes, cancelled, early)
    merged.merge()
    plan = merged.plan(size)
    root = agent_layout.prepare(plan.index)
    return ImagePackage(tuple(layers), plan, root, max_bytes, early, early.keep(plan) if early else {})


def _read_layers(
    layers: Sequence[common_unpack.PackageFile],
    merged: layer_merge.LayerMerge,
    max_bytes: int,
    cancelled: Callable[[], bool],
    early: early_files.EarlyFiles | None,
) -> None:
    """Read layers from the highest, and write early files, until `merged` is full."""

    def entries(tar: tar_reader.TarReader, layer: int) -> Iterator[tar_reader.Entry]:
        for number, entry in enumerate(_cancellable(tar, cancelled)):
            if early:
                early.offer(layer, number, entry, _cancellable(tar.chunks(), cancelled))
            yield entry

    budget = decompress.Budget(max_bytes)
    for number, layer in reversed(list(enumerate(layers))):
        with decompress.open_layer(layer, budget) as stream:
            merged.read_layer(number, entries(tar_reader.TarReader(stream), number))
        if merged.is_full:
            return


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
