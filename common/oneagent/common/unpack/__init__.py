"""Agent packages become directory trees: errors, limits, and the interface of all package formats.

PackageError                    one line for the log; nothing of the package stays on the disk
├── CorruptPackageError         cut short, altered, or not a package at all: download it again
├── UnsafePackageError          an entry that could write or point outside of the tree, or is no file
├── PackageTooLargeError        more entries or bytes than the limits allow
├── UnsupportedPackageError     encrypted, or compressed by an unsupported method
├── NotAnAgentError             a valid package without an agent in it
├── UnsignedImageError          an image without a required signature
├── UnpackProcessError          the process that unpacked the package ended, or exceeded a limit
├── UnpackFailedError           the disk or the archive's file system failed; `errno` says why
└── UnpackCancelledError        cancelled by the caller
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from oneagent.common.unpack import dedup, tree_writer

PackageFile = Path | int
"""A file of a package: its path, or a descriptor that is open for reading."""

_RATIO_FREE: Final = 16 << 20
"""Bytes that any archive may unpack to: a small package of zeros is harmless."""


def describe_file(file: PackageFile) -> str:
    """Name a file of a package in a message."""
    return "the package" if isinstance(file, int) else str(file)


class PackageError(Exception):
    """A package that is not unpacked."""


class CorruptPackageError(PackageError):
    """The archive contradicts itself, its checksums, or its format."""


class UnsafePackageError(PackageError):
    """An entry that does not belong in an agent."""


class PackageTooLargeError(PackageError):
    """The package is over a limit."""


class UnsupportedPackageError(PackageError):
    """The archive uses an unsupported feature."""


class NotAnAgentError(PackageError):
    """The preload library, or another part of an agent, is missing."""


class UnsignedImageError(PackageError):
    """The image lacks a signature with a required key."""


class UnpackProcessError(PackageError):
    """The process that unpacked the package crashed, was killed, or did not do what it has to."""


class UnpackFailedError(PackageError):
    """The operating system reported an error; `errno` as in `OSError` (`ENOSPC`: the disk is full)."""

    def __init__(self, message: str, errno: int | None) -> None:
        super().__init__(message)
        self.errno = errno

    @classmethod
    def from_os_error(cls, what: str, error: OSError) -> Self:
        name = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        return cls(f"{what}: {error.strerror or error}{name}", error.errno)


class UnpackCancelledError(PackageError):
    """The caller's `cancelled()` was true."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits of a package; a current agent has 0.6 to 1.2 GB in some thousand files."""

    unpacked_bytes: int = 4 << 30
    ratio: int = 50
    """UnpackedAgent bytes for each byte of the archive; an agent has about 3, a zip bomb 1,000 and more."""
    entries: int = 50_000

    def max_unpacked_bytes(self, archive_bytes: int) -> int:
        """Return how much a package of this size may unpack to."""
        return min(self.unpacked_bytes, max(self.ratio * archive_bytes, _RATIO_FREE))


class AgentPackage(Protocol):
    """An agent package that has been read and checked: a zip, or an image's layers."""

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
        existing: dedup.ExistingFiles | None = None,
        on_written: tree_writer.OnWritten | None = None,
    ) -> tree_writer.UnpackedAgent:
        """Unpack it into a fresh directory; after a `PackageError` the directory is empty.

        Files that are in `existing` are linked. `on_written` gets the bytes of each piece.
        """
        ...
