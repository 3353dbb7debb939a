"""The layers of an image become a tree on the disk: the whole one, or nothing.

Layers are read twice. The first time only what they list is kept, and what they hold is passed over: so names,
sizes and checksums of all layers are known to be good, and how much room they take, before the first byte is
written, and what a later layer replaces is never written at all. The second time the files that are left are
written, in the order in which they come. Unpacking gzip once more costs less than it would to write files and
take them away again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import agent_layout, decompress, dedup, file_manifest, layer_merge, tar_reader, writing, zip

_T = TypeVar("_T")
_LISTING: Final = 2048
"""Bytes of a tar for each allowed entry, beside its content: a header, padding, and some of an extended header."""


@dataclass(frozen=True, slots=True)
class Image:
    """Layers that have been read and hold an agent."""

    blobs: tuple[Path, ...]
    plan: layer_merge.Plan
    inside: str
    """The agent's folder within the outline."""
    most: int

    @property
    def unpacked_size(self) -> int:
        """Bytes that it will take on a disk, for the free-space check."""
        return self.plan.outline.disk_bytes

    def unpack(
        self,
        scratch: Path,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        present: dedup.ExistingFiles | None = None,
        wrote: writing.Wrote | None = None,
    ) -> zip.Unpacked:
        """Unpack the agent into `scratch`, as `unpack.unpack_agent` does with a zip.

        `threads` is for packages whose files can be read in any order; those of a layer come one after the other.
        """

        def write_files(writer: writing.Writer) -> list[file_manifest.File]:
            written: list[file_manifest.File] = []
            for number, layer in enumerate(self.blobs):
                written += self._write_layer(number, layer, budget, writer, cancelled or _never)
            agent_layout.check_machine(
                writer.tree.beginning(agent_layout.library(self.inside), agent_layout.HEADER_BYTES)
            )
            return written

        budget = decompress.Budget(self.most)
        with _disk_errors("the image cannot be unpacked"):
            whole = writing.fill(scratch, self.plan.outline, write_files, present, wrote)
        manifest = zip.below(whole, self.inside)
        return zip.Unpacked(scratch / self.inside, manifest, manifest.unpacked_bytes)

    def _write_layer(
        self,
        number: int,
        layer: Path,
        budget: decompress.Budget,
        writer: writing.Writer,
        cancelled: Callable[[], bool],
    ) -> Iterator[file_manifest.File]:
        wanted = {content.entry: content for content in self.plan.files if content.layer == number}
        if not wanted:
            return
        last = max(wanted)
        with decompress.unpacked(layer, budget) as stream:
            tar = tar_reader.Tar(stream)
            for position, entry in enumerate(_checked(tar, cancelled)):
                if content := wanted.get(position):
                    if (entry.kind, entry.size) != (tar_reader.Kind.FILE, content.size):
                        raise common_unpack.CorruptPackageError("a layer has changed since it was read")
                    yield from self._write(content, tar, writer, cancelled)
                if position == last:
                    return

    def _write(
        self, content: layer_merge.Content, tar: tar_reader.Tar, writer: writing.Writer, cancelled: Callable[[], bool]
    ) -> Iterator[file_manifest.File]:
        first, *others = self.plan.files[content]
        with writer.tree.folder(common_unpack.parent(first)) as folder:
            written = writer.write(folder, first, content.mode, _checked(tar.chunks(), cancelled))
        yield written
        for path in others:
            writer.tree.hard_link(path, first)
            yield msgspec.structs.replace(written, path=path)


def read(
    blobs: Sequence[Path],
    *,
    limits: common_unpack.Limits | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Image:
    """The image of these layers, the lowest first. `packages.PackageError` if it is not to be unpacked."""
    limits = limits or common_unpack.Limits()
    with _disk_errors("the image cannot be read"):
        size = sum(blob.stat().st_size for blob in blobs)
        most = common_unpack.most_bytes(limits, size) + _LISTING * limits.entries
        merged = layer_merge.Merged(limits)
        budget = decompress.Budget(most)
        for blob in blobs:
            with decompress.unpacked(blob, budget) as stream:
                merged.add(_checked(tar_reader.Tar(stream), cancelled or _never))
    plan = merged.plan(size)
    inside = agent_layout.prepare(plan.outline)
    return Image(tuple(blobs), plan, inside, most)


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise common_unpack.UnpackFailedError(what, error) from error


def _checked(things: Iterable[_T], cancelled: Callable[[], bool]) -> Iterator[_T]:
    for thing in things:
        if cancelled():
            raise common_unpack.UnpackCancelledError("unpacking was cancelled")
        yield thing


def _never() -> bool:
    return False
