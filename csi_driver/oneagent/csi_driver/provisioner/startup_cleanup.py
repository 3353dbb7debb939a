"""Clean-up after an earlier process, before the first reconcile.

A process can end at any step of an install, and the database can be lost. The store is the truth about installed
versions, and the versions table is made to agree. In `tmp/` only resumable downloads stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os

from oneagent.common import logs
from oneagent.common.identifiers import Version
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import tree_walker
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.store import AgentStore, config_layers, corruption_log, preload

log = logging.getLogger(__name__)


def clean_tmp(data: DataDir) -> None:
    """Empty `tmp/`, except for resumable downloads."""
    for entry in data.tmp.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            tree_walker.remove_if_possible(entry)
        elif not download_files.is_resumable(entry):
            entry.unlink(missing_ok=True)
    preload.remove_leftovers(data)
    for unfinished in (*data.pins.glob(".*"), *data.manifests.glob(".*"), *data.corrupt.glob(".*")):
        unfinished.unlink(missing_ok=True)


def reconcile(data: DataDir, store: AgentStore, state: ProvisionerState) -> None:
    """Make the versions table agree with the store and with the corruption log, and the rows with their layers."""
    stored = set(store.versions())
    for version in corruption_log.undo_unfinished(data, stored):
        with contextlib.suppress(FileNotFoundError):
            os.utime(data.manifest(version), (0, 0))  # It is scrubbed at once.
    for version in set(state.versions) - stored:
        state.drop_version(version)
    for version in corruption_log.list_versions(data):
        corruption = corruption_log.read(data, version)
        if corruption is not None and version not in stored:
            state.put_version(version, VersionState.CORRUPT, message=corruption.message)
    for version in stored:
        record = state.versions.get(version)
        if record is None or record.state != VersionState.READY:
            state.put_installed(version, _size(data, version))
            log.info("stored version added to the metadata", extra=logs.fields(version=version))
    state.set_desired([_without_incomplete_layers(data, row) for row in state.desired.values()])


def _without_incomplete_layers(data: DataDir, row: DesiredState) -> DesiredState:
    """Leave out what an older driver made of half the tenant's answers: pods wait for the other half."""

    def complete(layer: LayerId) -> LayerId:
        if not layer or not row.tenant:
            return LayerId("")
        if config_layers.is_complete(data.config_layer_path(row.tenant, layer), row.name):
            return layer
        log.warning("config layer without the tenant's token not used", extra=logs.fields(dynakube=row.name))
        return LayerId("")

    return dataclasses.replace(row, layer=complete(row.layer), good_layer=complete(row.good_layer))


def _size(data: DataDir, version: Version) -> int:
    """Return the size in the manifest; 0 without one, which only makes the budget generous."""
    try:
        return file_manifest.Manifest.load(data.manifest(version)).unpacked_bytes
    except file_manifest.TreeManifestError:
        return 0
