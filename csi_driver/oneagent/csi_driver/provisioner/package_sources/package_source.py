"""The interface of package sources, and the package that they download."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from oneagent.common.http import download
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent

DOWNLOAD_LIMITS: Final = download.DownloadLimits(connections=3)

FreeBytes = Callable[[Path], int]
"""Returns the bytes that may still be used in a directory."""


@dataclass(frozen=True, slots=True)
class Package:
    """A downloaded package. An image may have the same file as several of its layers."""

    files: tuple[download.Downloaded, ...]
    sha256: str
    content: PackageContent

    @property
    def is_temporary(self) -> bool:
        """Return True if it lies in `tmp/`, False if it is a user's file."""
        return all(file.is_temporary for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def delete(self) -> None:
        """Delete its temporary files."""
        for file in self.files:
            if file.is_temporary:
                with contextlib.suppress(FileNotFoundError):
                    file.path.unlink()


class PackageSource(Protocol):
    """A place that may have the package of one version. Equal sources have the same package."""

    @property
    def location(self) -> str:
        """URL or image for messages, without secrets."""
        ...

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: FreeBytes) -> Package | None:
        """Download the package to files whose names begin with `stem`; None if another source must be used.

        `DownloadError`, or `PackageError` if the content is seen to be unusable.
        """
        ...
