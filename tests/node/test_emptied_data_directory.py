"""A data directory that is emptied or deleted under the running driver: new pods get their agent without a restart."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.proto.csi.v1 import csi_pb2
from tests.fakes import node, packages
from tests.fakes import tenant as double
from tests.fakes.node import Driver, Kubelet
from tests.fakes.provisioner import Process, eventually, manifest
from tests.node.answers import refused

VERSION = packages.VERSION


def empty(directory: Path) -> None:
    """Remove everything in it that no mount holds, as `rm -rf /data/*` does."""
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


def has_settled(driver: Driver, provisioner: Process) -> bool:
    """Return whether the new database has the version, and no volume; while it is replaced it can't be read."""
    try:
        return provisioner.is_ready(VERSION) and not driver.rows()
    except sqlite3.Error:
        return False


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path, "--publish-wait=30s")
    yield driver
    driver.kill()
    node.unmount_all(driver)


@pytest.fixture
def provisioner(tmp_path: Path, driver: Driver) -> Iterator[Process]:
    process = Process(tmp_path)
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip"))
        process.set_dynakubes(manifest("demo", server.api_url))
        process.start()
        try:
            process.await_ready(VERSION)
            yield process
        finally:
            process.kill()


class TestAnEmptiedDataDirectory:
    def test_is_filled_again_and_mounted_from_by_the_running_processes(
        self, driver: Driver, provisioner: Process
    ) -> None:
        kubelet = driver.start()
        kubelet.publish("before")
        empty(driver.data.root)
        for pod in ("after", "another"):
            view = kubelet.publish(pod, timeout=25)
            assert os.path.ismount(view)
            assert (view / "agent/installer.version").read_text() == VERSION
        for pod in ("before", "after", "another"):
            kubelet.unpublish(pod)
            assert not kubelet.target(pod).exists()
        eventually(lambda: has_settled(driver, provisioner))
        assert os.listdir(driver.data.volumes) == []
        assert "Traceback" not in driver.log.read_text() + provisioner.log.read_text()

    def test_is_filled_again_when_only_the_store_is_gone(self, driver: Driver, provisioner: Process) -> None:
        kubelet = driver.start()
        shutil.rmtree(driver.data.agents)
        assert os.path.ismount(kubelet.publish("after", timeout=25))

    @pytest.mark.parametrize("lost", ["volumes", "volume_pool", "trash", "logs", "demand", "host_agents", "tmp"])
    def test_lacks_no_directory_for_long(self, tmp_path: Path, lost: str) -> None:
        with node.running(tmp_path, "--keep-logs") as (driver, kubelet):
            kubelet.publish("before")
            shutil.rmtree(getattr(driver.data, lost), ignore_errors=True)
            assert os.path.ismount(kubelet.publish("after"))
            host = kubelet.publish("host", mode="host")
            assert str(host) in [mount.target for mount in driver.mounts()]
            for pod in ("before", "after", "host"):
                kubelet.unpublish(pod)
            assert os.listdir(driver.data.volumes) == []
            assert "Traceback" not in driver.log.read_text()


class TestADeletedDataDirectory:
    def test_turns_the_probe_not_ready_where_only_a_restart_helps(self, tmp_path: Path) -> None:
        """A container holds a mount of the directory: it stays visible there, but nothing can be created in it."""
        host = tmp_path / "host"
        host.mkdir()
        (tmp_path / "data").mkdir()
        subprocess.run(["mount", "--bind", host, tmp_path / "data"], check=True)
        with node.running(tmp_path, "--publish-wait=50ms") as (driver, kubelet):
            try:
                kubelet.publish("before")
                assert kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value
                while host.exists():  # The server may create its database again meanwhile.
                    shutil.rmtree(host, ignore_errors=True)
                with refused(grpc.StatusCode.FAILED_PRECONDITION, "was deleted on the node"):
                    kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
                kubelet.unpublish("before")
                assert not kubelet.target("before").exists()
            finally:
                driver.kill()
                subprocess.run(["umount", "--lazy", tmp_path / "data"], check=True)


SERVER_WITH_A_BUG = """
import sys, threading
from oneagent.csi_driver.server import main

def failpoint(name):
    if name == "mounted":
        threading.Thread(target=lambda: 1 / 0, name="unlucky", daemon=True).start()

sys.exit(main.run(main.parse(), failpoint=failpoint))
"""


class TestAThreadThatDies:
    def test_ends_the_server_which_starts_again_with_all_its_views(self, tmp_path: Path) -> None:
        script = tmp_path / "server.py"
        script.write_text(SERVER_WITH_A_BUG)
        with node.running(tmp_path) as (healthy, _):
            healthy.stop()
            driver = Driver(tmp_path, command=(sys.executable, str(script)))
            kubelet = driver.start()
            kubelet.begin("pod1").exception(20)
            assert driver.process is not None
            assert driver.process.wait(20) == 1
            assert "thread died, process ends" in driver.log.read_text()
            kubelet = healthy.start()
            assert os.path.ismount(kubelet.publish("pod1"))
            assert isinstance(kubelet, Kubelet)
