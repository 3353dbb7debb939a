"""The zip of a version, from the DynaKube's tenant."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common.dynakube import DynaKube
from oneagent.common.http import download
from oneagent.common.identifiers import StoreKey, Version, agent_version
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import client, inputs
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.provisioner.package_sources.package_source import DOWNLOAD_LIMITS, FreeBytes, Package
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent
from oneagent.csi_driver.store import store_key

IS_CONTENT_ADDRESSED: Final = False
"""A tenant may serve other bytes under the same version later."""


def is_source_of(dynakube: DynaKube) -> bool:
    """Return True if no package is named: the tenant has it."""
    return not dynakube.package


def content_key(_dynakube: DynaKube) -> None:
    """The tenant names the version."""


def version_key(dynakube: DynaKube, version: Version) -> StoreKey:
    """A tenant's version is its own, and its packages differ by technology."""
    return store_key.of_version(version, "tenant", *dynakube.tenant_identity, sorted(dynakube.technologies))


def serves(dynakube: DynaKube, key: Version) -> bool:
    return version_key(dynakube, agent_version(key)) == key


def fingerprint(_dynakube: DynaKube) -> str:
    return ""


def open_source(dynakube: DynaKube, key: StoreKey, objects: ObjectReader, _registries: Registries) -> TenantZip:
    """Return the source; `InvalidSettingsError`, or `ApiError` while Secrets cannot be read."""
    access, version = inputs.tenant_access(dynakube, objects), agent_version(key)
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
        return Package((file,), file.sha256, PackageContent("zip", (file.path,)))
