"""Where a version can be fetched from, whatever kind of package it is there: a zip, or an image's layers.

A supply brings a package to `tmp/`; the package is read and then unpacked. Its files have names of the version's
there, so that a later process goes on with the parts of them, and finds what belongs to no version any more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from oneagent.common import logs, package_client
from oneagent.common.http import download, errors
from oneagent.common.oci import image as registry
from oneagent.common.oci import reference as oci_reference
from oneagent.common.unpack import AgentPackage, zip
from oneagent.common.unpack import image as unpack_image
from oneagent.csi_driver.provisioner import startup_cleanup
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror

log = logging.getLogger(__name__)

_PATIENCE: Final = download.Limits(connections=3)
_MIRROR_PATIENCE: Final = replace(_PATIENCE, attempts=2)
"""The next host may have the layer at once."""


@dataclass(frozen=True, slots=True)
class Package:
    """What has been fetched. `read` says what is in it, or raises `packages.PackageError`."""

    files: tuple[download.Downloaded, ...]
    sha256: str
    read: Callable[[Callable[[], bool]], AgentPackage]

    @property
    def is_temporary(self) -> bool:
        """Whether it lies in `tmp/` and not where somebody else has put it."""
        return all(file.is_temporary for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def remove(self) -> None:
        for file in self.files:
            if file.is_temporary:
                with contextlib.suppress(FileNotFoundError):
                    file.path.unlink()


class PackageSource(Protocol):
    """One place that may have a version. Two that are equal bring the same."""

    @property
    def place(self) -> str:
        """For people."""
        ...

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: Callable[[Path], int]) -> Package | None:
        """Bring the package to files whose names begin with `stem`; None if it is to be fetched from elsewhere.

        `downloads.DownloadError`, or `packages.PackageError` if it is seen to be of no use.
        """
        ...


# ---------------------------------------------------------------------- zips


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip, of a tenant's or on this node."""

    source: download.Source
    sha256: str = ""
    """What it must have; empty if nobody knows."""

    @property
    def place(self) -> str:
        if isinstance(self.source, download.LocalFile):
            return f"file://{self.source.path}"
        return self.source.url.partition("?")[0]

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: Callable[[Path], int]) -> Package:
        into = stem.with_name(f"{stem.name}.zip")
        got = download.download(
            self.source, into, cancelled=cancelled, expected_sha256=self.sha256, limits=_PATIENCE, free=free
        )
        return _zip(got)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A zip, of a package endpoint's in the cluster."""

    mirror: Mirror
    package: package_client.Package

    @property
    def place(self) -> str:
        return self.mirror.place(self.package)

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: Callable[[Path], int]) -> Package | None:
        into = stem.with_name(f"{stem.name}{startup_cleanup.MIRRORED}.zip")
        got = self.mirror.fetch(self.package, into, cancelled=cancelled, free=free)
        return None if got is None else _zip(got)


def _zip(got: download.Downloaded) -> Package:
    return Package((got,), got.sha256, lambda _cancelled: zip.read(got.path))


# -------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its digest. Layers that came before something broke are not fetched again; a folder's stay there."""

    reference: oci_reference.ImageName
    access: registry.Access

    @property
    def place(self) -> str:
        return str(self.reference)

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: Callable[[Path], int]) -> Package:
        layers = self._layers()
        folder = stem.parent
        names = {layer.digest: stem.with_name(f"{stem.name}.{layer.sha256}.layer") for layer in layers}
        sizes = {layer.digest: layer.size for layer in layers}
        here = {layer.digest for layer in layers if isinstance(layer.sources[-1], download.LocalFile)}
        needed = sum(size for digest, size in sizes.items() if digest not in here and not names[digest].exists())
        if needed > (room := free(folder)):
            raise download.DiskFullError(f"{folder}: {needed:,} bytes of layers do not fit into {room:,}", needed)
        # The same layer may come twice, an empty one say.
        got = {
            layer.digest: _layer(layer, names[layer.digest], cancelled, free)
            for layer in {layer.digest: layer for layer in layers}.values()
        }
        blobs = [got[layer.digest].path for layer in layers]
        digest = self.reference.digest.removeprefix("sha256:")
        return Package(tuple(got.values()), digest, lambda cancelled: unpack_image.read(blobs, cancelled=cancelled))

    def _layers(self) -> list[registry.Layer]:
        try:
            with registry.Image(self.reference, self.access) as image:
                return image.layers()
        except errors.HttpError as fault:
            raise download.DownloadSourceError(str(fault), fault) from fault


def _layer(
    layer: registry.Layer, into: Path, cancelled: threading.Event, free: Callable[[Path], int]
) -> download.Downloaded:
    """A layer, from the first host that has it whole."""
    bring = partial(
        download.download,
        into=into,
        cancelled=cancelled,
        expected_size=layer.size,
        expected_sha256=layer.sha256,
        free=free,
    )
    if into.exists():
        try:
            return replace(bring(download.LocalFile(into)), is_temporary=True, resumed_at=layer.size)
        except (download.ContentMismatchError, download.UnusableFileError):
            into.unlink()
    *mirrors, own = layer.sources
    for source in mirrors:
        try:
            return bring(source, limits=_MIRROR_PATIENCE)
        except (download.DownloadSourceError, download.ContentMismatchError) as error:
            log.warning("image mirror failed, trying the next host", extra=logs.facts(reason=error))
    return bring(own, limits=_PATIENCE)
