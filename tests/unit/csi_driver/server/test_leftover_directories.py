"""Directories of volumes at a start: what neither a mount nor a row names goes, other entries stay."""

from __future__ import annotations

import contextlib
from pathlib import Path

from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.startup_reconcile import Reconciler

KNOWN, LEFT = VolumeId("csi-known"), VolumeId("csi-left")


def test_only_directories_of_unknown_volumes_are_discarded(tmp_path: Path) -> None:
    data, root = DataDir(tmp_path / "data"), tmp_path / "kubelet"
    data.create()
    for name in (KNOWN, LEFT):
        Path(data.volume(name).root).mkdir()
    (data.volumes / ".of-somebody").mkdir()
    target = root / "pods/uid/volumes/kubernetes.io~csi/oneagent-bin/mount"
    target.parent.mkdir(parents=True)
    database = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
    with contextlib.closing(database):
        volumes = VolumeRepository(database)
        volumes.load()
        volumes.put(VolumeRecord(KNOWN, "app", "demo", str(target), "waiting"))
        mounts = OverlayMounter(data, root, user_namespace=False)
        Reconciler(data, volumes, mounts, InFlightCalls(lambda _calls: None)).reconcile()
        assert sorted(path.name for path in data.volumes.iterdir()) == [".of-somebody", KNOWN]
        assert [path.name.startswith(LEFT) for path in data.trash.iterdir()] == [True]


def test_without_the_directory_of_volumes_the_start_goes_on(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    database = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
    with contextlib.closing(database):
        volumes = VolumeRepository(database)
        volumes.load()
        mounts = OverlayMounter(data, tmp_path, user_namespace=False)
        Reconciler(data, volumes, mounts, InFlightCalls(lambda _calls: None)).reconcile()
        assert list(volumes.all()) == []
