"""A version in the store outlives a loss of power, and no call leaves a descriptor open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common import fsync
from oneagent.common.identifiers import StoreKey
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.provisioner.unpacker.process import UnpackedTree
from oneagent.csi_driver.store import AgentStore, StoreBusyError, store_key, sync_directory

KEY: StoreKey = store_key.of_zip("1" * 64)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.create()
    return data


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that the kernel was told to sync, by path, and what was then in the directory."""
    found: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        found.append(f"{path}: {sorted(os.listdir(path)) if os.path.isdir(path) else ''}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_store_s_directory_is_synced_once_a_version_is_in_it(data: DataDir, synced: list[str]) -> None:
    tree = data.tmp / "tree"
    tree.mkdir()
    AgentStore(data).add(KEY, tree)
    assert synced == [f"{data.agents}: ['{KEY}']"]


def test_the_manifests_directory_is_synced_once_a_file_manifest_is_in_it(data: DataDir, synced: list[str]) -> None:
    manifest = data.tmp / "manifest.json"
    manifest.touch()
    UnpackedTree(data.tmp, manifest, 0, 0).store_manifest(data.manifest(KEY))
    place = data.manifest(KEY)
    assert synced == [f"{place.parent}: ['{place.name}']"]


def test_a_file_that_is_replaced_is_synced_before_its_name_and_its_directory(data: DataDir, synced: list[str]) -> None:
    file = data.tmp / "file"
    file.write_text("old")
    before = os.listdir("/proc/self/fd")
    fsync.replace(file, b"new")
    assert os.listdir("/proc/self/fd") == before
    assert file.read_text() == "new"
    first, last = synced
    assert first.startswith(f"{data.tmp}/.file.")
    assert last == f"{data.tmp}: ['file']"


def refused_lease(data: DataDir) -> None:
    store = AgentStore(data)
    with store.removal(), pytest.raises(StoreBusyError):
        store.lease()


def refused_removal(data: DataDir) -> None:
    store = AgentStore(data)
    with store.lease(), pytest.raises(StoreBusyError):
        store.removal()


def failed_sync(data: DataDir) -> None:
    with pytest.raises(NotADirectoryError):
        sync_directory(data.agents / KEY)


@pytest.mark.parametrize(
    "call",
    [
        lambda data: AgentStore(data).versions(),
        lambda data: AgentStore(data).is_removing(),
        lambda data: sync_directory(data.agents),
        refused_lease,
        refused_removal,
        failed_sync,
    ],
    ids=["versions", "is removing", "sync", "refused lease", "refused removal", "failed sync"],
)
def test_no_descriptor_stays_open(data: DataDir, call: Callable[[DataDir], object]) -> None:
    (data.agents / KEY).touch()
    before = os.listdir("/proc/self/fd")
    call(data)
    assert os.listdir("/proc/self/fd") == before
