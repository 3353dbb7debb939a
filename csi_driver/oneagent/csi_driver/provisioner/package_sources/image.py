"""An image by its digest, from a registry or from an OCI layout on the node. The digest names the version."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import download, errors
from oneagent.common.identifiers import StoreKey, Version
from oneagent.common.oci import image as oci_image
from oneagent.common.oci import layout
from oneagent.common.oci.hosts import Registries
from oneagent.common.oci.reference import ImageName
from oneagent.common.tenant import image_resolver
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.provisioner.package_sources.package_source import DOWNLOAD_LIMITS, FreeBytes, Package
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent
from oneagent.csi_driver.store import store_key

log = logging.getLogger(__name__)

IS_CONTENT_ADDRESSED: Final = True

_MIRROR_LIMITS: Final = replace(DOWNLOAD_LIMITS, attempts=2)
"""The next host may have the layer at once."""


def is_source_of(dynakube: DynaKube) -> bool:
    return dynakube.image is not None or dynakube.image_layout is not None


def content_key(_dynakube: DynaKube) -> None:
    """The registry's answer, or the reference, has the digest."""


def version_key(_dynakube: DynaKube, _version: Version) -> None:
    """Only a digest names an image."""


def serves(_dynakube: DynaKube, key: Version) -> bool:
    """Return True for every digest: what comes is checked against it."""
    return bool(store_key.image_digest(key))


def fingerprint(dynakube: DynaKube) -> str:
    """For a layout, its index changes. For a signed image, the DynaKube names another digest."""
    if dynakube.image_layout is not None:
        return layout.index_fingerprint(dynakube.image_layout.path)
    return dynakube.image.digest if dynakube.image_key and dynakube.image is not None else ""


def open_source(dynakube: DynaKube, key: StoreKey, objects: ObjectReader, registries: Registries) -> Image:
    """Return the source; `InvalidSettingsError`, or `ApiError` while Secrets cannot be read."""
    digest = store_key.image_digest(key)
    if dynakube.image_layout is not None:
        return Image(dynakube.image_layout.at(digest), oci_image.Access())
    assert dynakube.image is not None
    return Image(dynakube.image.at(digest), image_resolver.registry_access(dynakube, objects, registries))


@dataclass(frozen=True, slots=True)
class Image:
    """Complete layers of an earlier attempt are not downloaded again; those of a layout on the node stay there."""

    reference: ImageName
    access: oci_image.Access

    @property
    def location(self) -> str:
        return str(self.reference)

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: FreeBytes) -> Package:
        # The same layer may come twice, for example an empty one.
        layers = self._layers()
        unique = {layer.digest: layer for layer in layers}
        targets = {digest: download_files.layer_file(stem, layer.sha256) for digest, layer in unique.items()}
        needed = sum(
            layer.size
            for layer in unique.values()
            if not isinstance(layer.sources[-1], download.LocalFile) and not targets[layer.digest].exists()
        )
        if needed > (available := free(stem.parent)):
            raise download.DiskFullError(
                f"{stem.parent}: {needed:,} bytes of layers do not fit into {available:,}", needed
            )
        files = {digest: _fetch_layer(layer, targets[digest], cancelled, free) for digest, layer in unique.items()}
        blobs = tuple(files[layer.digest].path for layer in layers)
        sha256 = self.reference.digest.removeprefix("sha256:")
        return Package(tuple(files.values()), sha256, PackageContent("image", blobs))

    def _layers(self) -> list[oci_image.Layer]:
        try:
            with oci_image.Image(self.reference, self.access) as image:
                return image.layers()
        except errors.RequestCancelledError as error:
            raise download.DownloadCancelledError(str(error)) from error
        except errors.HttpError as error:
            raise download.DownloadSourceError(str(error), error) from error


def _fetch_layer(
    layer: oci_image.Layer, target: Path, cancelled: threading.Event, free: FreeBytes
) -> download.Downloaded:
    """Download a layer from the first host that has it complete."""
    fetch = partial(
        download.download,
        into=target,
        cancelled=cancelled,
        expected_size=layer.size,
        expected_sha256=layer.sha256,
        free=free,
    )
    if target.exists():
        try:
            return replace(fetch(download.LocalFile(target)), is_temporary=True, resumed_at=layer.size)
        except (download.ContentMismatchError, download.UnusableFileError):
            target.unlink()
    *mirrors, own = layer.sources
    for mirror in mirrors:
        try:
            return fetch(mirror, limits=_MIRROR_LIMITS)
        except (download.DownloadSourceError, download.ContentMismatchError) as error:
            log.warning("image mirror failed, trying the next host", extra=logs.fields(reason=error))
    return fetch(own, limits=DOWNLOAD_LIMITS)
