"""Real processes on a node whose wall clock is stepped by a year: timeouts and retention go by elapsed time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import Version
from oneagent.csi_driver.store import store_key
from tests.fakes import node, packages
from tests.fakes import tenant as double
from tests.fakes.node import Driver
from tests.fakes.provisioner import OTHER, Process, eventually, manifest
from tests.node.answers import refused

VERSION = packages.VERSION
MISSING = store_key.of_version(Version("9.9.9"), "tests")
YEAR = 365 * 86400

PROGRAM = """
import sys, time
from pathlib import Path

real, step = time.time, Path({step!r})

def stepped():
    # gRPC compares what it gets with the kernel's clock, in C.
    is_ours = sys._getframe(1).f_globals["__name__"].startswith("oneagent.")
    return real() + (float(step.read_text()) if is_ours else 0)

# Before any module of the product can have the function: all of it gets the stepped clock.
time.time = stepped
from oneagent.csi_driver.{component} import main

raise SystemExit(main.main())
"""


class WallClock:
    """The wall clock of the processes that `command` starts."""

    def __init__(self, place: Path) -> None:
        self._step = place / "step"
        self._place = place
        self.step(0)

    def step(self, seconds: float) -> None:
        new = self._step.with_name("step.new")
        new.write_text(str(seconds))
        new.rename(self._step)

    def command(self, component: str) -> tuple[str, ...]:
        program = self._place / f"{component}.py"
        program.write_text(PROGRAM.format(step=str(self._step), component=component))
        return (sys.executable, str(program))


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def driver(tmp_path: Path, wall: WallClock) -> Iterator[Driver]:
    driver = Driver(tmp_path, "--publish-wait=50ms", "--keep-logs", command=wall.command("server"))
    yield driver
    driver.kill()
    node.unmount_all(driver)


class TestTheMountTimeout:
    @pytest.mark.parametrize("step", [YEAR, -YEAR])
    def test_does_not_pass_by_a_step_after_the_first_failure(self, driver: Driver, wall: WallClock, step: int) -> None:
        node.want(driver.data, node.demo(version=MISSING, mount_timeout_seconds=600.0))
        kubelet = driver.start()
        for attempt, happens in enumerate([lambda: None, lambda: wall.step(step), driver.kill, driver.stop], 1):
            happens()
            if driver.process is None or driver.process.poll() is not None:
                kubelet = driver.start()
            with refused(grpc.StatusCode.UNAVAILABLE, f"attempt {attempt} of 10"):
                kubelet.publish("pod1")

    def test_passes_in_its_time_though_the_clock_was_set_back(self, driver: Driver, wall: WallClock) -> None:
        node.want(driver.data, node.demo(version=MISSING, mount_timeout_seconds=1.0, mount_attempts=1000))
        kubelet = driver.start()
        with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 1000"):
            kubelet.publish("pod1")
        wall.step(-YEAR)
        driver.kill()
        kubelet = driver.start()
        deadline = time.monotonic() + 15
        while True:
            try:
                target = kubelet.publish("pod1")
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline
        assert not os.path.ismount(target)
        assert "for 1 s (the mount timeout)" in driver.rows()["csi-pod1"]["reason"]


class TestRetention:
    def start(self, tmp_path: Path, wall: WallClock, *flags: str) -> Process:
        process = Process(tmp_path, *flags)
        process._command[:3] = wall.command("provisioner")
        process.start()
        return process

    def test_of_versions_and_logs_goes_by_elapsed_time(self, tmp_path: Path, driver: Driver, wall: WallClock) -> None:
        with double.Tenant() as server:
            server.release(VERSION, packages.build(tmp_path / "agent.zip"))
            server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
            process = self.start(tmp_path, wall, "--gc-keep-unused=1h", "--log-retention=1h")
            try:
                policy = {"mount-policy": "wait"}
                process.set_dynakubes(manifest("demo", server.api_url, version=VERSION, annotations=policy))
                process.await_ready(VERSION)
                kubelet = driver.start()
                kubelet.publish("pod1")
                kubelet.unpublish("pod1")
                process.set_dynakubes(manifest("demo", server.api_url, version=OTHER, annotations=policy))
                process.await_ready(OTHER)
                wall.step(YEAR)
                assert process.stop() == 0
                process.start()
                marker = process.data.discard(process.data.tmp)  # Gone from the trash after a run of the collector.
                assert marker
                eventually(lambda: not list(process.data.trash.iterdir()), what=process.log.read_text)
                assert sorted(process.versions()) == [VERSION, OTHER]
                assert len(list(process.data.logs.iterdir())) == 1
            finally:
                process.kill()

    def test_ends_in_its_time_though_the_clock_was_set_back(self, tmp_path: Path, wall: WallClock) -> None:
        with double.Tenant() as server:
            server.release(VERSION, packages.build(tmp_path / "agent.zip"))
            server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
            process = self.start(tmp_path, wall, "--gc-keep-unused=1s")
            policy = {"mount-policy": "wait"}
            try:
                process.set_dynakubes(manifest("demo", server.api_url, version=VERSION, annotations=policy))
                process.await_ready(VERSION)
                wall.step(-YEAR)
                process.set_dynakubes(manifest("demo", server.api_url, version=OTHER, annotations=policy))
                process.await_ready(OTHER)
                eventually(lambda: process.versions() == [OTHER], what=process.log.read_text)
            finally:
                process.kill()
