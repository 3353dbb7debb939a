"""The driver is removed while pods have volumes of it: it stays until kubelet has taken the last one back."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.common.injection import inert_library
from tests.fakes import node, provisioner
from tests.fakes.kube_api import KubeApi
from tests.fakes.node import Driver, Kubelet
from tests.fakes.provisioner import eventually

STAYS = "driver uninstalled, staying until the last volume is gone"
WAIT_SECONDS = 60
"""Longer than a test, unless that says otherwise."""


@pytest.fixture
def wait_seconds() -> int:
    return WAIT_SECONDS


@pytest.fixture
def driver(tmp_path: Path, wait_seconds: int) -> Iterator[Driver]:
    flags = ("--publish-wait=2s", f"--uninstall-wait={wait_seconds}s", "--log-level=debug")
    with node.running(tmp_path, *flags) as (driver, _):
        yield driver


def begin_end(driver: Driver) -> subprocess.Popen[bytes]:
    """SIGTERM without waiting for what it does."""
    assert driver.process is not None
    driver.process.send_signal(signal.SIGTERM)
    return driver.process


def uninstall(driver: Driver) -> subprocess.Popen[bytes]:
    """SIGTERM, and the provisioner's word a moment later; the server's process, which stays."""
    process = begin_end(driver)
    time.sleep(0.3)
    driver.data.uninstall_marker.touch()
    eventually(lambda: STAYS in driver.log.read_text())
    return process


def await_look(driver: Driver) -> None:
    """Wait until the server has counted its volumes once more, and stays."""
    looks = driver.log.read_text().count("waiting for the last volume")
    eventually(lambda: driver.log.read_text().count("waiting for the last volume") > looks)


class TestAfterAnUninstallTheServer:
    def test_answers_all_calls_until_the_last_volume_is_unpublished_and_then_ends(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        kubelet.publish("pod1")
        kubelet.publish("agent", mode="host")
        process = uninstall(driver)
        assert f"{STAYS}  volumes=2" in driver.log.read_text()
        view = kubelet.publish("pod2")
        assert (view / "agent").is_dir()
        for pod in ("pod1", "agent"):
            kubelet.unpublish(pod)
            await_look(driver)
            assert process.poll() is None
        kubelet.unpublish("pod2")
        assert process.wait(20) == 0
        assert not driver.mounts()
        assert not driver.socket.exists()

    def test_stays_for_a_pod_that_runs_without_its_agent(self, driver: Driver, kubelet: Kubelet) -> None:
        node.want(driver.data, node.demo(version=Version("9.9.9"), mount_attempts=0))
        assert inert_library.is_inert(str(kubelet.publish("pod1") / PRELOAD_LIBRARY))
        process = uninstall(driver)
        kubelet.unpublish("pod1")
        assert process.wait(20) == 0

    def test_stays_for_a_pod_that_waits_for_its_version(self, driver: Driver, kubelet: Kubelet) -> None:
        node.want(driver.data, node.demo(version=Version("9.9.9")))
        waiting = kubelet.begin("pod1")
        time.sleep(0.3)
        process = uninstall(driver)
        assert "attempt 1 of 10" in str(waiting.exception(20))
        await_look(driver)
        assert process.poll() is None
        kubelet.unpublish("pod1")
        assert process.wait(20) == 0

    def test_does_not_stay_for_a_pod_that_went_without_an_unpublish(self, driver: Driver, kubelet: Kubelet) -> None:
        subprocess.run(["umount", kubelet.publish("pod1")], check=True)
        process = uninstall(driver)
        kubelet.target("pod1").rmdir()
        kubelet.forget("pod1")
        assert process.wait(20) == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_at_once_with_a_second_signal_and_leaves_the_views(
        self, driver: Driver, kubelet: Kubelet, number: signal.Signals
    ) -> None:
        view = kubelet.publish("pod1")
        process = uninstall(driver)
        process.send_signal(number)
        assert process.wait(20) == 0
        assert (view / "agent").is_dir()

    @pytest.mark.parametrize("wait_seconds", [2])
    def test_makes_way_for_a_new_one(self, driver: Driver, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1")
        old = uninstall(driver)
        driver.start(wait=False)
        assert old.wait(20) == 0
        eventually(lambda: driver.log.read_text().count("serving") == 2)
        successor = Kubelet(driver.socket, driver.target_root)
        driver.wait_ready(successor)
        assert (view / "agent").is_dir()
        assert not driver.data.uninstall_marker.exists()
        successor.publish("pod2")
        successor.unpublish("pod1")
        # What was said to its predecessor does not hold it.
        assert driver.stop() == 0


class TestWithoutAnUninstallTheServer:
    @pytest.mark.parametrize("wait_seconds", [3])
    def test_ends_when_nobody_has_said_so_in_time_and_answers_until_then(
        self, driver: Driver, kubelet: Kubelet, wait_seconds: int
    ) -> None:
        view = kubelet.publish("pod1")
        began = time.monotonic()
        process = begin_end(driver)
        time.sleep(0.5)
        kubelet.publish("pod2")
        assert process.wait(20) == 0
        assert time.monotonic() - began >= wait_seconds
        assert (view / "agent").is_dir()
        assert STAYS not in driver.log.read_text()

    def test_ends_at_once_with_a_second_signal(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        process = begin_end(driver)
        time.sleep(0.3)
        process.terminate()
        assert process.wait(20) == 0

    def test_ends_at_once_while_there_are_no_volumes(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        kubelet.unpublish("pod1")
        assert begin_end(driver).wait(20) == 0

    def test_ends_at_once_if_it_was_not_told_to_wait(self, tmp_path: Path) -> None:
        with node.running(tmp_path) as (driver, kubelet):
            kubelet.publish("pod1")
            driver.data.uninstall_marker.touch()
            assert begin_end(driver).wait(20) == 0


class TestTheProvisioner:
    @pytest.fixture
    def api(self) -> Iterator[KubeApi]:
        with KubeApi() as api:
            api.put("daemonsets", {"metadata": {"name": "oneagent-csi-driver"}})
            yield api

    def start(self, api: KubeApi, place: Path) -> provisioner.Process:
        flags = (
            "--dynakube-source=kubernetes",
            f"--kubeconfig={api.kubeconfig(place / 'kubeconfig')}",
            "--daemonset=oneagent-csi-driver",
        )
        process = provisioner.Process(place, *flags)
        process.start()
        eventually(lambda: api.seen("daemonsets") and api.open_watches)
        return process

    def test_tells_the_server_that_ends_together_with_it(
        self, tmp_path: Path, driver: Driver, kubelet: Kubelet, api: KubeApi
    ) -> None:
        kubelet.publish("pod1")
        process = self.start(api, tmp_path)
        try:
            api.delete("daemonsets", "oneagent-csi-driver")
            server = begin_end(driver)
            assert process.stop() == 0
        finally:
            process.kill()
        assert "driver uninstalled  daemonset=oneagent-csi-driver" in process.log.read_text()
        eventually(lambda: STAYS in driver.log.read_text())
        await_look(driver)
        assert server.poll() is None
        kubelet.unpublish("pod1")
        assert server.wait(20) == 0

    @pytest.mark.parametrize("wait_seconds", [3])
    def test_lets_the_server_end_while_the_daemonset_is_there(
        self, tmp_path: Path, driver: Driver, kubelet: Kubelet, api: KubeApi
    ) -> None:
        kubelet.publish("pod1")
        process = self.start(api, tmp_path)
        try:
            server = begin_end(driver)
            assert process.stop() == 0
        finally:
            process.kill()
        assert server.wait(20) == 0
        assert not driver.data.uninstall_marker.exists()
