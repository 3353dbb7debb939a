"""A zip on the node: `codeModulesImage: file:///path/to/archive.zip`. Without a pinned version its digest names it."""

from __future__ import annotations

import hashlib
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import page_cache
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import download
from oneagent.common.identifiers import StoreKey, Version, agent_version
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.provisioner.package_sources.package_source import DOWNLOAD_LIMITS, FreeBytes, Package
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent
from oneagent.csi_driver.store import store_key

IS_CONTENT_ADDRESSED: Final = False
"""The user may replace the file."""


def is_source_of(dynakube: DynaKube) -> bool:
    return dynakube.package_file is not None


def content_key(dynakube: DynaKube) -> StoreKey | None:
    """Return the key by the zip's digest, hashed once for each change of the file."""
    return _content_keys.key_of(dynakube.package_file) if dynakube.package_file is not None else None


def version_key(dynakube: DynaKube, version: Version) -> StoreKey:
    """The user names the version of what is in the file."""
    return store_key.of_version(version, "file", str(dynakube.package_file))


def serves(dynakube: DynaKube, key: Version) -> bool:
    return bool(store_key.zip_digest(key)) or version_key(dynakube, agent_version(key)) == key


def fingerprint(_dynakube: DynaKube) -> str:
    return ""


def open_source(dynakube: DynaKube, key: StoreKey, _objects: ObjectReader, _registries: Registries) -> LocalZip:
    assert dynakube.package_file is not None
    # The file may have changed since its digest became the key.
    return LocalZip(download.LocalFile(dynakube.package_file), store_key.zip_digest(key))


@dataclass(frozen=True, slots=True)
class LocalZip:
    source: download.LocalFile
    sha256: str = ""
    """The expected digest; empty if the user names the version."""

    @property
    def location(self) -> str:
        return f"file://{self.source.path}"

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: FreeBytes) -> Package:
        file = download.download(
            self.source,
            download_files.zip_file(stem),
            cancelled=cancelled,
            expected_sha256=self.sha256,
            limits=DOWNLOAD_LIMITS,
            free=free,
        )
        return Package((file,), file.sha256, PackageContent("zip", (file.path,)))


class ContentKeys:
    """Keys of local zips without a pinned version: the digests of their content."""

    def __init__(self) -> None:
        self._keys: dict[Path, tuple[tuple[int, ...], StoreKey]] = {}

    def key_of(self, archive: Path) -> StoreKey | None:
        """Return the key, hashed once for each change of the file; None if it cannot be read."""
        try:
            status = archive.stat()
            if not stat.S_ISREG(status.st_mode):
                return None  # A pipe or a device may have no end.
            stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            entry = self._keys.get(archive)
            if entry is None or entry[0] != stamp:
                with archive.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    page_cache.drop_read(file.fileno())
                entry = self._keys[archive] = (stamp, store_key.of_zip(digest))
        except OSError:
            return None
        return entry[1]


_content_keys: Final = ContentKeys()
