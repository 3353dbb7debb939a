"""Who has an image's manifests and blobs: a registry's host or a mirror (`repositories`), or a folder (`folders`)."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from oneagent.common.http import download
from oneagent.common.oci import manifest as oci_manifest


class ImageSource(Protocol):
    """For one thread at a time; to be closed after use. What it gives has the digest that it was asked for."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def host(self) -> str:
        """For people."""
        ...

    def resolve(self, tag: str) -> str:
        """The digest that a tag stands for today."""
        ...

    def manifest(self, digest: str) -> bytes:
        """A manifest with this digest."""
        ...

    def tagged(self, tag: str) -> list[bytes]:
        """What a tag stands for today; nothing if there is no such tag."""
        ...

    def referrers(self, digest: str, kind: str) -> bytes | None:
        """The list of what refers to a manifest and is of this kind; None where no such lists are kept."""
        ...

    def config(self, wanted: oci_manifest.Descriptor) -> bytes:
        """A small blob, whole."""
        ...

    def blob(self, digest: str) -> download.Source:
        """Where a blob is fetched from."""
        ...
