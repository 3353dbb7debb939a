"""Unpublish: in any state, again, and never of what is not the volume's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import VolumeId
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("unpublish"), "--publish-wait=100ms") as (driver, _):
        yield driver


def test_of_an_unknown_volume_is_ok(kubelet: Kubelet) -> None:
    kubelet.unpublish("never-seen")
    kubelet.target("seen-by-kubelet").mkdir(parents=True)
    kubelet.unpublish("seen-by-kubelet")
    assert not kubelet.target("seen-by-kubelet").exists()


def test_of_an_unknown_volume_deletes_nothing_that_is_not_a_csi_volume(kubelet: Kubelet) -> None:
    data = kubelet.root / "pods/victim/volumes/kubernetes.io~empty-dir/data"
    data.mkdir(parents=True)
    (data / "precious").write_text("x")
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id="csi-stray", target_path=str(data))
    kubelet.node.NodeUnpublishVolume(request, timeout=10)
    assert (data / "precious").exists()


def test_of_a_view_in_use_fails_keeps_it_and_works_later(driver: Driver, kubelet: Kubelet) -> None:
    target = kubelet.publish("busy")
    with (target / "agent/log.txt").open("w"), refused(grpc.StatusCode.INTERNAL, "a process still uses it"):
        kubelet.unpublish("busy")
    assert os.path.ismount(target)
    eventually(lambda: driver.state("busy") == "mounted")
    assert (Path(driver.data.volume(VolumeId("csi-busy")).upper) / "agent/log.txt").exists()
    kubelet.publish("busy")
    kubelet.unpublish("busy")
    assert not target.exists()
    assert "csi-busy" not in driver.rows()


def test_leaves_nothing_behind(driver: Driver, kubelet: Kubelet) -> None:
    target = kubelet.publish("leaver")
    (target / "agent/deep/er").mkdir(parents=True)
    kubelet.unpublish("leaver")
    assert not target.exists()
    assert target.parent.exists(), "what kubelet made is for kubelet to remove"
    assert "csi-leaver" not in os.listdir(driver.data.volumes)
    assert "csi-leaver" not in driver.rows()


def test_is_ok_where_kubelet_has_removed_the_folder_already(driver: Driver, kubelet: Kubelet) -> None:
    target = kubelet.publish("removed")
    subprocess.run(["umount", target], check=True)
    target.rmdir()
    kubelet.forget("removed")
    kubelet.unpublish("removed")
    assert "csi-removed" not in driver.rows()
    assert "csi-removed" not in os.listdir(driver.data.volumes)


def test_removes_all_that_another_program_stacked_on_the_view(kubelet: Kubelet) -> None:
    target = kubelet.publish("stacked")
    subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    kubelet.unpublish("stacked")
    assert not target.exists()
