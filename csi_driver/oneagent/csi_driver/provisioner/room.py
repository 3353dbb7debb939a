"""Room on the disk, as the garbage collector makes it and an install asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class NoSpaceError(Exception):
    """A version does not fit."""


class Room(Protocol):
    """Space on the disk."""

    def make(self, needed_bytes: int) -> None:
        """Remove what may be removed until `needed_bytes` fit; `NoSpaceError` with a clear sentence if they don't."""
        ...

    def free(self, folder: Path) -> int:
        """Bytes that may still be used: of the disk, and of the budget."""
        ...
