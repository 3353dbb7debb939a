"""A version that becomes visible in the middle of a publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server import overlay, request_validation
from oneagent.csi_driver.server.publish import Publisher, PublishSettings
from oneagent.csi_driver.store import AgentStore
from tests.fakes import node

LAYER = LayerId("made")


class FillingStore(AgentStore):
    """A store into which the provisioner puts the version at the very moment at which it is looked for."""

    def __init__(self, data: DataDir) -> None:
        super().__init__(data)
        self._data = data

    def has(self, version: Version) -> bool:
        if version == node.VERSION and not super().has(version):
            config = self._data.config_layer(node.demo().tenant, LAYER) / "agent/conf"
            config.mkdir(parents=True)
            (config / "ruxitagentproc.conf").write_text("of the tenant")
            node.want(self._data, node.demo(layer=LAYER))
            node.install(self._data)
        return super().has(version)


class WaitingCaller:
    def time_remaining(self) -> float:
        return 100.0

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True


@pytest.mark.parametrize("known", [None, node.demo()], ids=["after a start", "while the server runs"])
def test_finds_its_configuration_in_place(tmp_path: Path, known: DesiredState | None) -> None:
    data = DataDir(tmp_path / "data")
    data.create()
    node.want(data, node.demo())
    driver = node.Driver(tmp_path)
    kubelet = node.Kubelet(driver.socket, driver.target_root)
    metadata = database.Database(data.database, data.database_lock)
    wanted = DesiredStateReader(metadata, data.dynakubes)
    if known is not None:
        assert wanted.get(known.name) == known
    mounts = overlay.OverlayMounter(
        data, driver.target_root, user_namespace=overlay.in_user_namespace(Path("/proc/self/uid_map").read_text())
    )
    publisher = Publisher(
        PublishSettings("node1"), data, FillingStore(data), mounts, VolumeRepository(metadata), wanted
    )
    target = kubelet.target("pod")
    target.parent.mkdir(parents=True)
    try:
        request = request_validation.publish(kubelet.request("pod"), str(driver.target_root))
        assert publisher.publish(request, WaitingCaller()).result == "mounted"
        assert (target / "agent/conf/ruxitagentproc.conf").read_text() == "of the tenant"
    finally:
        node.unmount_all(driver)
        metadata.close()
