"""The zip of a version, from the DynaKube's tenant."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common.dynakube import DynaKube
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import client, inputs
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.common.unpack import zip
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.provisioner.package_sources.package_source import DOWNLOAD_LIMITS, FreeBytes, Package

IS_CONTENT_ADDRESSED: Final = False
"""A tenant may serve other bytes under the same version later."""


def is_source_of(dynakube: DynaKube) -> bool:
    """Return True if no package is named: the tenant has it."""
    return not dynakube.package


def content_version(_dynakube: DynaKube) -> None:
    """The tenant names the version."""


def fingerprint(_dynakube: DynaKube) -> str:
    return ""


def open_source(dynakube: DynaKube, version: Version, objects: ObjectReader, _registries: Registries) -> TenantZip:
    """Return the source; `InvalidSettingsError`, or `ApiError` while Secrets cannot be read."""
    access = inputs.tenant_access(dynakube, objects)
    return TenantZip(client.package_source(access, version, technologies=dynakube.technologies))


@dataclass(frozen=True, slots=True)
class TenantZip:
    source: download.HttpSource

    @property
    def location(self) -> str:
        return self.source.url.partition("?")[0]

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: FreeBytes) -> Package:
        file = download.download(
            self.source, download_files.zip_file(stem), cancelled=cancelled, limits=DOWNLOAD_LIMITS, free=free
        )
        return Package((file,), file.sha256, lambda _cancelled: zip.read(file.path))
