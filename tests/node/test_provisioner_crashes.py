"""Recovery of the provisioner after a kill at each step of an install and of a removal."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import agent_version
from oneagent.common.unpack import dedup, zip
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.store import preload
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, Process, eventually, manifest

VERSION = packages.VERSION
INSTALL = (
    "download begun",
    "downloaded",
    "unpacking",
    "unpacking:6",
    "unpacked",
    "manifest written",
    "prepared",
    "renamed",
    "row ready",
)
REMOVAL = ("version in the trash", "deleting", "deleting:4")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip", prefix=packages.NESTED))
        yield server


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path, module="tests.fakes.crashing_provisioner")
    yield process
    process.kill()


def assert_intact(process: Process) -> None:
    """Assert what holds at any time, also right after a kill."""
    assert provisioner.list_corrupt(process.data) == []


def assert_settled(process: Process, *versions: str) -> None:
    """Assert what holds once a provisioner has nothing left to do."""
    assert_intact(process)
    data = process.data
    eventually(lambda: process.versions() == sorted(versions), what=process.versions)
    eventually(lambda: process.states() == dict.fromkeys(versions, "ready"), what=process.states)
    eventually(lambda: not [*data.tmp.iterdir(), *data.trash.iterdir()], what=lambda: list(data.trash.iterdir()))
    eventually(lambda: sorted(agent_version(file.stem) for file in data.manifests.iterdir()) == sorted(versions))
    assert all(row["size_bytes"] for row in provisioner.table(data, "versions"))


@pytest.mark.parametrize("failpoint", INSTALL)
def test_the_next_process_finishes_a_killed_install(process: Process, server: double.Tenant, failpoint: str) -> None:
    process.set_dynakubes(manifest("demo", server.api_url))
    process.start(CRASH_AT=failpoint)
    assert process.wait_for_exit() == -9
    assert_intact(process)
    assert process.versions() == ([VERSION] if failpoint in {"renamed", "row ready"} else [])
    process.start(CRASH_AT="never")
    process.await_ready(VERSION)
    assert_settled(process, VERSION)
    row = process.row()
    assert process.data.config_layer(row["tenant"], row["layer"]).is_dir()
    assert server.count("package") <= 2


def test_a_download_that_is_killed_half_way_is_resumed(tmp_path: Path, process: Process, server: double.Tenant) -> None:
    server.release(OTHER, packages.build(tmp_path / "large.zip", OTHER, filler=4 << 20))
    server.plan("package", double.Fault(bytes_per_second=4_000_000))
    process.set_dynakubes(manifest("demo", server.api_url))
    process.start(CRASH_AT="never")
    parts = partial(process.data.tmp.glob, f"{OTHER}_*.zip.part")
    eventually(lambda: any(part.stat().st_size >= 2 << 20 for part in parts()))
    process.kill()
    (part_size,) = (part.stat().st_size for part in parts())
    assert_intact(process)
    process.start(CRASH_AT="never")
    process.await_ready(OTHER)
    assert_settled(process, OTHER)
    second = [request for request in server.requests if request.endpoint == "package"][1]
    assert second.headers["Range"] == f"bytes={part_size}-"


@pytest.mark.parametrize("failpoint", REMOVAL)
def test_the_next_process_finishes_a_killed_removal(
    tmp_path: Path, process: Process, server: double.Tenant, failpoint: str
) -> None:
    server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
    process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
    process.start(CRASH_AT=failpoint)
    process.await_ready(VERSION)
    process.set_dynakubes(manifest("demo", server.api_url, version=OTHER))
    assert process.wait_for_exit() == -9
    assert_intact(process)
    process.start(CRASH_AT="never")
    process.await_ready(OTHER)
    assert_settled(process, OTHER)


def test_a_version_desired_again_after_a_killed_removal_is_installed(process: Process, server: double.Tenant) -> None:
    process.set_dynakubes(manifest("demo", server.api_url))
    process.start(CRASH_AT="deleting")
    process.await_ready(VERSION)
    process.set_dynakubes()
    assert process.wait_for_exit() == -9
    process.set_dynakubes(manifest("demo", server.api_url))
    process.start(CRASH_AT="never")
    process.await_ready(VERSION)
    assert_settled(process, VERSION)


class Pods:
    """The kubelet's calls for many pods: publish until it succeeds, then unpublish."""

    def __init__(self, kubelet: node.Kubelet, seed: int) -> None:
        self._kubelet = kubelet
        self._random = random.Random(seed)
        self.wrong: list[str] = []
        self.published = 0

    def run(self, pod: str) -> None:
        self._retry(lambda: self._kubelet.publish(pod, timeout=5))
        view = self._kubelet.target(pod)
        version = (view / "agent/installer.version").read_text()
        if (view / "agent/lib64/liboneagentproc.so").read_bytes() != b"\x7fELF" + version.encode() * 200:
            self.wrong.append(f"{pod} has another library than its version {version}")
        if "tenantToken" not in (view / "agent/conf/ruxitagentproc.conf").read_text():
            self.wrong.append(f"{pod} has no configuration of its tenant")
        time.sleep(self._random.random() * 0.5)
        if (view / "agent/installer.version").read_text() != version:
            self.wrong.append(f"{pod} has lost its agent")
        self.published += 1
        self._retry(lambda: self._kubelet.unpublish(pod, timeout=5))

    def _retry(self, call: object) -> None:
        deadline = time.monotonic() + 40
        while True:
            try:
                call()  # type: ignore[operator]
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def test_server_and_provisioner_recover_from_random_kills(tmp_path: Path, server: double.Tenant) -> None:
    server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
    chance = random.Random(7)
    driver = node.Driver(tmp_path, "--publish-wait=1s")
    process = Process(tmp_path, "--gc-interval=100ms")
    annotations = {"max-csi-mount-attempts": "9999"}
    objects = {
        version: manifest("demo", server.api_url, version=version, annotations=annotations)
        for version in (VERSION, OTHER)
    }
    process.set_dynakubes(objects[VERSION])
    started = time.monotonic()
    process.start()
    process.await_ready(VERSION)
    # On a busy machine a start takes longer, and a process that is always killed before that proves nothing.
    pace = max(1.0, time.monotonic() - started)
    kubelet = driver.start()
    pods = Pods(kubelet, 7)
    names = iter([f"pod{number}" for number in range(30)])
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                pod = next(names, None)
            if pod is None:
                return
            pods.run(pod)

    threads = [threading.Thread(target=work) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(pace * chance.uniform(0.2, 0.9))
            process.set_dynakubes(objects[chance.choice((VERSION, OTHER))])
            if chance.random() < 0.6:
                process.kill()
                assert_intact(process)
                process.start()
            if chance.random() < 0.3:
                driver.kill()
                driver.start(wait=False)
        for thread in threads:
            thread.join()
        assert (pods.wrong, pods.published) == ([], 30)
        process.set_dynakubes(objects[OTHER])
        process.await_ready(OTHER)
        driver.wait_ready(kubelet)
        eventually(lambda: not driver.rows(), what=driver.rows)
        assert_settled(process, OTHER)
        assert not mount_table.at_or_below(mount_table.read(), str(tmp_path))
        assert not list(driver.data.volumes.iterdir())
        layers = [layer.name for tenant in driver.data.config_layers.iterdir() for layer in tenant.iterdir()]
        assert layers == [process.row()["layer"]]
    finally:
        process.kill()
        driver.kill()
        node.unmount_all(driver)


@pytest.mark.parametrize("failpoint", ["manifest of preload written", "prepared", "preload in the store"])
def test_the_next_process_finishes_a_killed_import(
    tmp_path: Path, process: Process, server: double.Tenant, failpoint: str
) -> None:
    preload.preload(
        process.data,
        lambda _early: zip.read(tmp_path / "agent.zip"),
        preload.PreloadOrigin(version=VERSION, dynakube="demo", sha256="0" * 64, keep_until=time.time() + 3600),
        dedup.ExistingFiles(),
    )
    process.set_dynakubes(manifest("demo", server.api_url))
    process.start(CRASH_AT=failpoint)
    assert process.wait_for_exit() == -9
    assert_intact(process)
    process.start(CRASH_AT="never")
    process.await_ready(VERSION)
    assert_settled(process, VERSION)
    assert list(process.data.preloaded.iterdir()) == []
    assert server.count("package") == 0
