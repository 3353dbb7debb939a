"""A data directory that becomes read-only, as ext4 makes its file system after an error: pods start, and can end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.injection import inert_library
from oneagent.common.proto.csi.v1 import csi_pb2
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.fakes.provisioner import Process, manifest
from tests.node.answers import eventually, refused

INTERNAL = "internal error"


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def _own_file_system(place: Path) -> Iterator[Path]:
    """An ext4 file system for the data directory, which the kernel can abort; skipped where none can be mounted."""
    image, data = place / "ext4.img", place / "data"
    data.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    try:
        run("mkfs.ext4", "-q", image)
        run("mount", "-o", "loop", image, data)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 file system can be mounted here: {error}")
    try:
        yield data
    finally:
        subprocess.run(["umount", "--lazy", data], check=True)


@contextlib.contextmanager
def _driver(place: Path) -> Iterator[Driver]:
    with node.running(place, "--publish-wait=50ms", "--keep-logs") as (driver, kubelet):
        node.want(driver.data, node.demo(mount_attempts=1))
        kubelet.publish("running")
        yield driver


@contextlib.contextmanager
def _remounted(driver: Driver) -> Iterator[None]:
    """Another mount lies over the directory, because files are open for writing in the first one."""
    root = driver.data.root
    run("mount", "--bind", root, root)
    # The kernel refuses it in a moment in which the server has a file open for writing, through the new mount too.
    remount = ["mount", "-o", "remount,bind,ro", str(root)]
    eventually(lambda: subprocess.run(remount, stderr=subprocess.DEVNULL, check=False).returncode == 0)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@contextlib.contextmanager
def _aborted(driver: Driver) -> Iterator[None]:
    run("mount", "-o", "remount,abort", driver.data.root)
    with pytest.raises(OSError, match="Read-only file system"):
        (driver.data.tmp / "file").touch()
    yield


@pytest.fixture(params=["remounted", "aborted"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Driver, AbstractContextManager[None]]]:
    """A driver with a pod `running`, and what makes its data directory read-only."""
    if request.param == "remounted":
        with _driver(tmp_path) as driver:
            yield driver, _remounted(driver)
    else:
        with _own_file_system(tmp_path), _driver(tmp_path) as driver:
            yield driver, _aborted(driver)


def assert_pods_start_and_end(driver: Driver, kubelet: Kubelet) -> None:
    assert kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value
    with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 1: the view can't be mounted: Read-only file system"):
        kubelet.publish("new")
    target = kubelet.publish("new")
    assert inert_library.is_inert(f"{target}/{PRELOAD_LIBRARY}")
    assert not os.path.ismount(target)
    (target / "file").touch()
    for pod in ("running", "new", "unknown"):
        kubelet.unpublish(pod)
        assert not kubelet.target(pod).exists()
        kubelet.unpublish(pod)
    assert driver.mounts() == []
    with refused(grpc.StatusCode.UNAVAILABLE, "Read-only file system"):
        kubelet.publish("host-agent", mode="host")
    kubelet.unpublish("host-agent")
    assert INTERNAL not in driver.log.read_text()


Disk = tuple[Driver, AbstractContextManager[None]]
Restart = Callable[[Driver], object]


class TestAReadOnlyDataDirectory:
    def test_lets_pods_end_and_others_start_empty(self, disk: Disk) -> None:
        driver, becomes_read_only = disk
        with becomes_read_only:
            assert_pods_start_and_end(driver, Kubelet(driver.socket, driver.target_root))

    @pytest.mark.parametrize("end", [Driver.stop, Driver.kill], ids=["stopped", "killed"])
    def test_is_served_by_a_server_that_starts(self, disk: Disk, end: Restart) -> None:
        driver, becomes_read_only = disk
        with becomes_read_only:
            end(driver)
            assert_pods_start_and_end(driver, driver.start())
            assert driver.stop() == 0
        assert "Traceback" not in driver.log.read_text()

    def test_has_the_rest_of_its_volumes_removed_once_it_is_writable(self, tmp_path: Path) -> None:
        with _driver(tmp_path) as driver:
            with _remounted(driver):
                Kubelet(driver.socket, driver.target_root).unpublish("running")
            assert os.listdir(driver.data.volumes) == ["csi-running"]
            driver.stop()
            kubelet = driver.start()
            assert os.listdir(driver.data.volumes) == []
            assert os.path.ismount(kubelet.publish("next"))

    def test_does_not_end_a_provisioner_that_starts(self, tmp_path: Path) -> None:
        with _driver(tmp_path) as driver:
            (driver.data.tmp / "leftover").touch()
            process = Process(tmp_path)
            process.set_dynakubes(manifest("demo", "http://127.0.0.1:1/api"))
            with _remounted(driver):
                process.start()
                try:
                    eventually(lambda: "metadata write failed" in process.log.read_text(), 15)
                    assert process.stop() == 0
                finally:
                    process.kill()
        assert "Traceback" not in process.log.read_text()
