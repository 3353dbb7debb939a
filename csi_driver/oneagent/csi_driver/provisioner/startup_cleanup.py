"""What an earlier process left behind, put right before the first turn.

A process can end at any step of an install, and the database can be lost. The store is the truth of what is
installed, and the versions table is made to say the same. In `tmp/` only downloads that can be resumed are worth
keeping.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from typing import Final

from oneagent.common import logs
from oneagent.common.identifiers import Version
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.store import AgentStore, damage_log, preload

log = logging.getLogger(__name__)

PARTS_KEPT_SECONDS: Final = 86400.0

MIRRORED: Final = ".mirror"
"""Stands before the suffix of what a mirror sends: its part stays what it is while the tenant is tried, and back."""

_KEPT: Final = (".zip.part", ".zip.part.json", ".layer", ".layer.part", ".layer.part.json")
"""A layer that is whole is hashed again before it is used."""
_ZIP: Final = re.compile(rf"(.+?)({re.escape(MIRRORED)})?\.zip(\.part(\.json)?)?")
_LAYER: Final = re.compile(r"(.+)\.[0-9a-f]{64}\.layer(\.part(\.json)?)?")


def version_of_package(name: str) -> Version | None:
    """The version that a file in `tmp/` is the package, or a part of the package, of."""
    found = _ZIP.fullmatch(name) or _LAYER.fullmatch(name)
    return Version(found[1]) if found else None


def drop_packages(folder: DataDir, version: Version) -> None:
    """Remove packages of a version, and parts of them, wherever they are from: the version is in the store."""
    for file in folder.tmp.iterdir():
        if version_of_package(file.name) == version:
            file.unlink(missing_ok=True)


def tidy(folder: DataDir) -> None:
    """Remove what is in tmp/, but for what a download can go on with."""
    for entry in folder.tmp.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif not entry.name.endswith(_KEPT) or time.time() - entry.lstat().st_mtime > PARTS_KEPT_SECONDS:
            entry.unlink(missing_ok=True)
    preload.tidy(folder)
    for unfinished in (*folder.pins.glob(".*"), *folder.manifests.glob(".*"), *folder.corrupt.glob(".*")):
        unfinished.unlink(missing_ok=True)


def reconcile(folder: DataDir, store: AgentStore, records: ProvisionerState) -> None:
    """Make the versions table agree with the store, and with the notes of what was damaged."""
    stored = set(store.versions())
    for version in damage_log.undo_unfinished(folder, stored):
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder.manifest(version), (0, 0))  # It is checked again at once.
    for version in set(records.versions) - stored:
        records.drop_version(version)
    for version in damage_log.list_versions(folder):
        damage = damage_log.read(folder, version)
        if damage is not None and version not in stored:
            records.put_version(version, VersionState.DAMAGED, message=damage.message)
    for version in stored:
        record = records.versions.get(version)
        if record is None or record.state != VersionState.READY:
            now = time.time()
            records.put_version(
                version, VersionState.READY, size_bytes=_size(folder, version), installed_at=now, last_used_at=now
            )
            log.info("version found in the store", extra=logs.facts(version=version))
    records.flush()


def _size(folder: DataDir, version: Version) -> int:
    """As the manifest says it; a version without one counts nothing, which only makes the budget generous."""
    try:
        return file_manifest.Manifest.load(folder.manifest(version)).unpacked_bytes
    except file_manifest.TreeManifestError:
        return 0
