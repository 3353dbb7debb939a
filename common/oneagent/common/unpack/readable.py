"""A package that has been read and found to be an agent, whatever its kind, ready to become a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from oneagent.common.unpack import dedup, writing, zip, zip_reader


class Readable(Protocol):
    """A zip, or an image's layers (`images`)."""

    @property
    def unpacked_size(self) -> int:
        """Bytes that it will take on the disk."""
        ...

    def unpack(
        self,
        scratch: Path,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        present: dedup.ExistingFiles | None = None,
        wrote: writing.Wrote | None = None,
    ) -> zip.Unpacked:
        """Unpack it into a fresh folder; `packages.PackageError`, and the folder is empty.

        Files that are `present` are linked; `wrote` is told of each piece.
        """
        ...


@dataclass(frozen=True, slots=True)
class Zip:
    path: Path
    unpacked_size: int

    def unpack(
        self,
        scratch: Path,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        present: dedup.ExistingFiles | None = None,
        wrote: writing.Wrote | None = None,
    ) -> zip.Unpacked:
        return zip.unpack_agent(self.path, scratch, threads=threads, cancelled=cancelled, present=present, wrote=wrote)


def of_zip(archive: Path) -> Zip:
    """`packages.PackageError` if it is not to be unpacked."""
    return Zip(archive, zip_reader.unpacked_size(archive))
