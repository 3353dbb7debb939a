"""Trees that a pod wrote, however deep or wide: unpublished, counted, and never opened."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.server.volume_files import IDENTITY_FILE
from oneagent.csi_driver.server.volume_stats import MAX_ENTRIES
from tests.fakes import node, pod_trees
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually

LEVELS = 10_000
NAMES = 100_000
MIB = 1 << 20
IN_OPEN = 0x20

Write = Callable[[Path], None]


def deep(view: Path) -> None:
    pod_trees.write_deep(view, LEVELS)


def wide(view: Path) -> None:
    pod_trees.write_wide(view, NAMES)


def want_empty_views(driver: Driver) -> None:
    """Let the DynaKube `absent` have no agent to wait for."""
    absent = node.demo(name=DynaKubeName("absent"), version=Version("7.7.7"), mount_attempts=0)
    node.want(driver.data, node.demo(), absent)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def on_one_mount(_place: Path) -> None:
    pass


def as_in_a_container(place: Path) -> None:
    """Data and kubelet's directory are two mounts of one file system, as of two hostPath volumes."""
    for name in ("data", "kubelet"):
        (place / "disk" / name).mkdir(parents=True)
        (place / name).mkdir()
        mount("--bind", place / "disk" / name, place / name)


def on_two_disks(place: Path) -> None:
    (place / "data").mkdir()
    mount("-t", "tmpfs", "tmpfs", place / "data")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where names are made fast; nothing stays mounted."""
    place = tmp_path / "node"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "nr_inodes=0,size=2g", "tmpfs", place)
    yield place
    subprocess.run(["umount", "--recursive", place], check=True)


class TestUnpublishingAnEmptyView:
    @pytest.mark.parametrize("arrange", [on_one_mount, as_in_a_container, on_two_disks])
    @pytest.mark.parametrize("write", [deep, wide])
    def test_succeeds_in_time_and_memory_whatever_its_pod_wrote(
        self, place: Path, arrange: Write, write: Write
    ) -> None:
        arrange(place)
        with node.running(place, "--publish-wait=50ms") as (driver, kubelet):
            want_empty_views(driver)
            view = kubelet.publish("hostile", dynakube="absent")
            assert driver.state("hostile") == "empty"
            write(view)
            before = driver.forget_peak()
            began = time.monotonic()
            kubelet.unpublish("hostile")
            took = time.monotonic() - began
            assert took < 10
            assert driver.memory() - before < 16 * MIB
            assert not view.exists()
            assert os.listdir(view.parent) == []
            assert "csi-hostile" not in driver.rows()
            moved = [entry for entry in os.listdir(driver.data.trash) if entry.startswith("csi-hostile.")]
            assert len(moved) == (arrange is not on_two_disks)

    def test_finishes_what_an_earlier_release_could_not(self, place: Path) -> None:
        """A volume without a row, as after a lost database."""
        with node.running(place) as (_, kubelet):
            kubelet.target("old").mkdir(parents=True)
            pod_trees.write_deep(kubelet.target("old"), 1_500)
            kubelet.unpublish("old")
            assert not kubelet.target("old").exists()


class TestUnpublishingAView:
    @pytest.mark.parametrize("write", [deep, wide])
    def test_takes_no_memory_for_what_its_pod_wrote(self, place: Path, write: Write) -> None:
        with node.running(place, "--keep-logs") as (driver, kubelet):
            kubelet.publish("hostile")
            write(Path(driver.data.volume(VolumeId("csi-hostile")).upper) / "agent")
            before = driver.forget_peak()
            kubelet.unpublish("hostile")
            assert driver.memory() - before < 16 * MIB
            assert len(os.listdir(driver.data.logs)) == 1


class TestStatistics:
    @pytest.mark.parametrize("write", [deep, wide])
    def test_stop_at_a_number_of_entries_and_the_condition_says_so(self, place: Path, write: Write) -> None:
        with node.running(place) as (driver, kubelet):
            kubelet.publish("hostile")
            few = kubelet.stats("hostile")
            upper = Path(driver.data.volume(VolumeId("csi-hostile")).upper) / "agent"
            for number in range(3):
                (upper / str(number)).mkdir()
                write(upper / str(number))
            before = driver.forget_peak()
            many = kubelet.stats("hostile")
            assert driver.memory() - before < 8 * MIB
            assert inodes(many).used == MAX_ENTRIES
            assert not many.volume_condition.abnormal
            assert "counts the first 20000 entries" in many.volume_condition.message
            assert few.volume_condition.message == "the view is mounted"


def inodes(stats: csi_pb2.NodeGetVolumeStatsResponse) -> csi_pb2.VolumeUsage:
    (found,) = [usage for usage in stats.usage if usage.unit == csi_pb2.VolumeUsage.INODES]
    return found


class Opens:
    """Whether a file is opened, by inotify(7)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_OPEN) > 0

    def seen(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False


@pytest.mark.parametrize("kind", ["fifo", "device", "file"])
def test_only_a_regular_file_is_opened_for_a_pods_name_after_the_database_was_lost(
    driver: Driver, kubelet: Kubelet, kind: str
) -> None:
    kubelet.publish("pod")
    eventually(lambda: driver.state("pod") == "mounted")
    driver.kill()
    identity = Path(driver.data.volume(VolumeId("csi-pod")).upper) / IDENTITY_FILE
    if kind != "file":
        identity.unlink()
        mode = 0o010666 if kind == "fifo" else 0o020666
        try:
            os.mknod(identity, mode, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")
    for file in driver.data.root.glob("metadata.db*"):
        file.unlink()
    opens = Opens(identity)
    driver.start()
    eventually(lambda: driver.state("pod") == "mounted")
    assert opens.seen() is (kind == "file")
    assert driver.rows()["csi-pod"]["pod_name"] == ("pod" if kind == "file" else "")
