"""What a person has carried to this node: a zip, or an image in a folder. Known by its version, then checked and read.

A zip says which version it is by a folder in it, an image is named by its digest, as if a registry had sent it: so
a DynaKube that wants the image finds it in the store.
"""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from oneagent.common import unpack as common_unpack
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.oci import image as registry
from oneagent.common.oci import layout
from oneagent.common.oci import reference as oci_reference
from oneagent.common.unpack import AgentPackage, agent_layout, zip
from oneagent.common.unpack import image as unpack_image
from oneagent.csi_driver.provisioner.package_sources import origins
from oneagent.csi_driver.store.preload import NotPreloadedError

Told = Callable[[int, int], None]
"""Bytes that are done, and all of them."""


class Carried(Protocol):
    @property
    def version(self) -> Version: ...

    def read(self, told: Told) -> AgentPackage:
        """Whether it can be unpacked; `packages.PackageError` or `downloads.DownloadError` if it can't."""
        ...


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip."""

    version: Version
    path: Path

    def read(self, told: Told) -> AgentPackage:
        return zip.read(self.path)


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its digest, which it has in a folder."""

    image: oci_reference.LayoutReference

    @property
    def version(self) -> Version:
        return origins.version_of(self.image.digest)

    def read(self, told: Told) -> AgentPackage:
        with registry.Image(self.image, registry.Access()) as found:
            layers = found.layers()
        total, done = sum(layer.size for layer in layers), 0
        blobs = []
        for layer in layers:
            got = download.download(
                layer.sources[-1],
                self.image.path,
                cancelled=threading.Event(),
                expected_size=layer.size,
                expected_sha256=layer.sha256,
                progress=partial(_passed_on, told, done, total),
            )
            done += got.size
            blobs.append(got.path)
        return unpack_image.read(blobs)


def find(what: Path | oci_reference.LayoutReference, version: Version) -> Carried:
    """What lies there; `version` is what the person says that it is, if anything."""
    if isinstance(what, Path):
        return Archive(version or _told_by(what), what)
    if version:
        raise NotPreloadedError("the version of an image is its digest; leave --version out")
    with registry.Image(what, registry.Access()) as found:
        return Image(what.at(found.digest()))


def _passed_on(told: Told, before: int, total: int, done: int, _size: int | None) -> None:
    told(before + done, total)


def _told_by(archive: Path) -> Version:
    try:
        with zip.open_zip(archive) as package:
            named = agent_layout.read_version(package.index)
    except common_unpack.CorruptPackageError as error:
        if way := _way_to_a_folder(archive):
            raise NotPreloadedError(
                f"it is a tar; an image is taken from a folder, which this makes of it: {way}"
            ) from error
        raise
    if not named:
        raise NotPreloadedError("the package does not say which version it is; give it with --version")
    return Version(named)


def _way_to_a_folder(archive: Path) -> str:
    """The command that makes an image layout of a tar; empty if it is none."""
    try:
        with tarfile.open(archive) as tar:
            is_layout = layout.MARKER in tar.getnames()
    except (OSError, tarfile.TarError):
        return ""
    return f"tar -xf {archive} -C FOLDER" if is_layout else f"skopeo copy docker-archive:{archive} oci:FOLDER"
