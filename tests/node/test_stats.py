"""What kubelet is told of a volume: how much it holds, and what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import refused

FRAGILE = store_key.of_version(Version("6.6.6"), "tests")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("stats"), "--publish-wait=50ms") as (driver, _):
        node.install(driver.data, FRAGILE)
        absent = node.demo(name=DynaKubeName("absent"), version=Version("7.7.7"), mount_attempts=0)
        node.want(driver.data, node.demo(), absent, node.demo(name=DynaKubeName("fragile"), version=FRAGILE))
        yield driver


def usage(kubelet: Kubelet, pod: str, unit: csi_pb2.VolumeUsage.Unit) -> csi_pb2.VolumeUsage:
    (found,) = [usage for usage in kubelet.stats(pod).usage if usage.unit == unit]
    return found


class TestUsage:
    def test_counts_what_the_pod_wrote(self, driver: Driver, kubelet: Kubelet) -> None:
        view = kubelet.publish("writer")
        bytes_before = usage(kubelet, "writer", csi_pb2.VolumeUsage.BYTES)
        files_before = usage(kubelet, "writer", csi_pb2.VolumeUsage.INODES)
        (view / "agent/log").mkdir()
        (view / "agent/log/x").write_bytes(bytes(1 << 20))
        with (view / "agent/log/x").open("rb+") as file:
            os.fsync(file.fileno())
        written = usage(kubelet, "writer", csi_pb2.VolumeUsage.BYTES)
        assert written.used - bytes_before.used >= 1 << 20
        assert usage(kubelet, "writer", csi_pb2.VolumeUsage.INODES).used == files_before.used + 2
        disk = os.statvfs(driver.data.root)
        assert written.total == disk.f_blocks * disk.f_frsize
        assert 0 < written.available < written.total

    def test_is_answered_while_the_pod_writes_and_deletes(self, kubelet: Kubelet) -> None:
        view = kubelet.publish("lively")
        stop = threading.Event()

        def rotate() -> None:
            while not stop.is_set():
                folder = view / "agent/rotating"
                folder.mkdir()
                for number in range(20):
                    (folder / str(number)).write_text("x")
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()

        writer = threading.Thread(target=rotate)
        writer.start()
        try:
            for _ in range(200):
                assert not kubelet.stats("lively").volume_condition.abnormal
        finally:
            stop.set()
            writer.join()

    def test_is_given_for_a_host_agents_folder(self, kubelet: Kubelet) -> None:
        kubelet.publish("host", mode="host")
        assert usage(kubelet, "host", csi_pb2.VolumeUsage.BYTES).total > 0
        assert not kubelet.stats("host").volume_condition.abnormal


class TestTheCondition:
    def test_is_fine_for_a_mounted_view(self, kubelet: Kubelet) -> None:
        kubelet.publish("fine")
        assert not kubelet.stats("fine").volume_condition.abnormal

    def test_is_abnormal_for_an_empty_view_and_says_why(self, kubelet: Kubelet) -> None:
        kubelet.publish("empty", dynakube="absent")
        condition = kubelet.stats("empty").volume_condition
        assert condition.abnormal
        assert "without its agent" in condition.message
        assert "7.7.7 is not in the store" in condition.message

    def test_is_abnormal_when_somebody_unmounted_the_view(self, kubelet: Kubelet) -> None:
        subprocess.run(["umount", kubelet.publish("unmounted")], check=True)
        condition = kubelet.stats("unmounted").volume_condition
        assert (condition.abnormal, condition.message) == (True, "the view is gone: nothing is mounted at the target")

    def test_is_abnormal_when_the_version_is_corrupt(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("corrupt", dynakube="fragile")
        Path(driver.data.agent(FRAGILE), PRELOAD_LIBRARY).unlink()
        condition = kubelet.stats("corrupt").volume_condition
        assert condition.abnormal
        assert "6.6.6 is corrupt" in condition.message


class TestNotFound:
    def test_is_the_answer_for_a_volume_that_is_not_published_there(self, kubelet: Kubelet) -> None:
        kubelet.publish("here")
        with refused(grpc.StatusCode.NOT_FOUND):
            kubelet.stats("nowhere")
        for path in ("some/path", "/etc", str(kubelet.target("elsewhere"))):
            request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="csi-here", volume_path=path)
            with refused(grpc.StatusCode.NOT_FOUND):
                kubelet.node.NodeGetVolumeStats(request, timeout=5)
