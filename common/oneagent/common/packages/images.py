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

from oneagent.common import packages
from oneagent.common.packages import layers, layouts, sharing, streams, tars, treemanifests, unpack, writing

_T = TypeVar("_T")
_LISTING: Final = 2048
"""Bytes of a tar for each allowed entry, beside its content: a header, padding, and some of an extended header."""


@dataclass(frozen=True, slots=True)
class Image:
    """Layers that have been read and hold an agent."""

    blobs: tuple[Path, ...]
    plan: layers.Plan
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
        present: sharing.Present | None = None,
        wrote: writing.Wrote | None = None,
    ) -> unpack.Unpacked:
        """Unpack the agent into `scratch`, as `unpack.unpack_agent` does with a zip.

        `threads` is for packages whose files can be read in any order; those of a layer come one after the other.
        """

        def write_files(writer: writing.Writer) -> list[treemanifests.File]:
            written: list[treemanifests.File] = []
            for number, layer in enumerate(self.blobs):
                written += self._write_layer(number, layer, budget, writer, cancelled or _never)
            layouts.check_machine(writer.tree.beginning(layouts.library(self.inside), layouts.HEADER_BYTES))
            return written

        budget = streams.Budget(self.most)
        with _disk_errors("the image cannot be unpacked"):
            whole = writing.fill(scratch, self.plan.outline, write_files, present, wrote)
        manifest = unpack.below(whole, self.inside)
        return unpack.Unpacked(scratch / self.inside, manifest, manifest.unpacked_bytes)

    def _write_layer(
        self,
        number: int,
        layer: Path,
        budget: streams.Budget,
        writer: writing.Writer,
        cancelled: Callable[[], bool],
    ) -> Iterator[treemanifests.File]:
        wanted = {content.entry: content for content in self.plan.files if content.layer == number}
        if not wanted:
            return
        last = max(wanted)
        with streams.unpacked(layer, budget) as stream:
            tar = tars.Tar(stream)
            for position, entry in enumerate(_checked(tar, cancelled)):
                if content := wanted.get(position):
                    if (entry.kind, entry.size) != (tars.Kind.FILE, content.size):
                        raise packages.DamagedPackage("a layer has changed since it was read")
                    yield from self._write(content, tar, writer, cancelled)
                if position == last:
                    return

    def _write(
        self, content: layers.Content, tar: tars.Tar, writer: writing.Writer, cancelled: Callable[[], bool]
    ) -> Iterator[treemanifests.File]:
        first, *others = self.plan.files[content]
        with writer.tree.folder(packages.parent(first)) as folder:
            written = writer.write(folder, first, content.mode, _checked(tar.chunks(), cancelled))
        yield written
        for path in others:
            writer.tree.hard_link(path, first)
            yield msgspec.structs.replace(written, path=path)


def read(
    blobs: Sequence[Path],
    *,
    limits: packages.Limits | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Image:
    """The image of these layers, the lowest first. `packages.PackageError` if it is not to be unpacked."""
    limits = limits or packages.Limits()
    with _disk_errors("the image cannot be read"):
        size = sum(blob.stat().st_size for blob in blobs)
        most = packages.most_bytes(limits, size) + _LISTING * limits.entries
        merged = layers.Merged(limits)
        budget = streams.Budget(most)
        for blob in blobs:
            with streams.unpacked(blob, budget) as stream:
                merged.add(_checked(tars.Tar(stream), cancelled or _never))
    plan = merged.plan(size)
    inside = layouts.prepare(plan.outline)
    return Image(tuple(blobs), plan, inside, most)


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise packages.UnpackFailed(what, error) from error


def _checked(things: Iterable[_T], cancelled: Callable[[], bool]) -> Iterator[_T]:
    for thing in things:
        if cancelled():
            raise packages.UnpackCancelled("unpacking was cancelled")
        yield thing


def _never() -> bool:
    return False
