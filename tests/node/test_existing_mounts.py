"""Targets where something is mounted already: by the volume itself, by another one, or by another program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import refused

OTHER = store_key.of_version(Version("2.0.0"), "tests")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("mounts"), "--publish-wait=100ms") as (driver, _):
        node.install(driver.data, OTHER, b"other")
        node.want(driver.data, node.demo(), node.demo(name=DynaKubeName("other"), version=OTHER))
        yield driver


@pytest.fixture
def foreign(kubelet: Kubelet) -> Iterator[Path]:
    """A mount of somebody else at the target of the pod `foreign`."""
    target = kubelet.target("foreign")
    target.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", target], check=True)
    (target / "precious").write_text("x")
    yield target
    subprocess.run(["umount", target], check=False)
    target.rmdir()


def send(kubelet: Kubelet, request: csi_pb2.NodePublishVolumeRequest) -> None:
    kubelet.node.NodePublishVolume(request, timeout=10)


class TestPublishedAgain:
    @pytest.mark.parametrize("read_only", [False, True])
    def test_the_same_volume_is_ok_and_mounts_nothing_more(
        self, driver: Driver, kubelet: Kubelet, read_only: bool
    ) -> None:
        pod = f"again{read_only}".lower()
        target = kubelet.publish(pod, read_only=read_only)
        for _ in range(9):
            kubelet.publish(pod, read_only=read_only)
        assert [mount.target for mount in driver.mounts()].count(str(target)) == 1
        if not read_only:
            (target / "agent/mark").write_text("x")
            kubelet.publish(pod)
            assert (target / "agent/mark").exists()
        for _ in range(10):
            kubelet.unpublish(pod)
        assert not target.exists()

    def test_with_other_arguments_is_refused_and_changes_nothing(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("changed")
        others: list[dict[str, Any]] = [{"read_only": True}, {"dynakube": "other"}, {"mode": "host"}]
        for fields in others:
            with refused(grpc.StatusCode.ALREADY_EXISTS, "csi-changed"):
                kubelet.publish("changed", **fields)
        assert (target / "agent/lib64/liboneagentproc.so").read_bytes() == b"library"
        assert [mount.target for mount in driver.mounts()].count(str(target)) == 1

    def test_at_a_second_target_is_refused_until_the_first_one_is_unpublished(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        kubelet.publish("moving")
        request = kubelet.request("moving")
        second = kubelet.target("moved")
        second.parent.mkdir(parents=True)
        request.target_path = str(second)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, str(kubelet.target("moving"))):
            send(kubelet, request)
        assert not second.exists()
        kubelet.unpublish("moving")
        send(kubelet, request)
        assert os.path.ismount(second)
        # An unpublish that comes late for the first target leaves the second one alone.
        kubelet.unpublish("moving")
        assert os.path.ismount(second)


class TestAForeignMount:
    def test_is_no_place_for_a_view(self, driver: Driver, kubelet: Kubelet, foreign: Path) -> None:
        for mode in ("app", "host"):
            with refused(grpc.StatusCode.ALREADY_EXISTS, "something else is mounted"):
                kubelet.publish("foreign", mode=mode)
        assert (foreign / "precious").exists()
        assert "csi-foreign" not in driver.rows()

    def test_is_left_alone_by_an_unpublish(self, kubelet: Kubelet, foreign: Path) -> None:
        kubelet.unpublish("foreign")
        assert (foreign / "precious").exists()

    def test_that_took_the_place_of_a_host_agents_folder_is_a_conflict(self, kubelet: Kubelet) -> None:
        target = kubelet.publish("replaced", mode="host")
        subprocess.run(["umount", target], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            kubelet.publish("replaced", mode="host")
        subprocess.run(["umount", target], check=True)

    def test_may_be_another_volumes_view(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("owner")
        request = kubelet.request("intruder")
        request.target_path = str(target)
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            send(kubelet, request)
        stray = csi_pb2.NodeUnpublishVolumeRequest(volume_id="csi-intruder", target_path=str(target))
        kubelet.node.NodeUnpublishVolume(stray, timeout=10)
        assert os.path.ismount(target)


class TestAViewOfTheDynatraceOperatorsDriver:
    """It has the same name: kubelet asks whichever driver is there to unmount its views."""

    @pytest.mark.parametrize("place", ["appmounts", "abc12345/run"])
    def test_is_unmounted_for_its_volume_only(self, driver: Driver, kubelet: Kubelet, place: str) -> None:
        target = kubelet.target("migrated")
        target.mkdir(parents=True)
        volume = driver.data.root / place / kubelet.volume_id("migrated")
        for directory in ("var", "work"):
            (volume / directory).mkdir(parents=True)
        lower = driver.data.root / "codemodules/1.0.0"
        lower.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={lower},upperdir={volume}/var,workdir={volume}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", target], check=True)
        other = csi_pb2.NodeUnpublishVolumeRequest(volume_id="csi-other", target_path=str(target))
        kubelet.node.NodeUnpublishVolume(other, timeout=10)
        assert os.path.ismount(target)
        kubelet.unpublish("migrated")
        assert not target.exists()
