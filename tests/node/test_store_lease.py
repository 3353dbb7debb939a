"""A provisioner that is stopped in the middle of a removal: it holds the store's lease, and nothing waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import agent_version
from oneagent.common.proto.csi.v1 import csi_pb2
from tests.fakes import node, packages, ports
from tests.fakes import tenant as double
from tests.fakes.node import Driver, Kubelet
from tests.fakes.provisioner import OTHER, Process, eventually, manifest
from tests.node.answers import refused, status_of

VERSION = packages.VERSION
WAIT_SECONDS = 60.0
"""Longer than a test, unless that says otherwise."""
METRICS = f"127.0.0.1:{ports.free()}"
PROMPT_SECONDS = 15.0


@pytest.fixture
def wait_seconds() -> float:
    return WAIT_SECONDS


@pytest.fixture
def driver(tmp_path: Path, wait_seconds: float) -> Iterator[Driver]:
    driver = Driver(tmp_path, f"--publish-wait={wait_seconds:g}s", f"--metrics-address={METRICS}")
    yield driver
    driver.kill()
    node.unmount_all(driver)


@pytest.fixture
def kubelet(driver: Driver) -> Kubelet:
    return driver.start()


def waiting() -> int:
    return int(ports.metric(METRICS, "oneagent_csi_waiting_publishes"))


def is_stopped(process: Process) -> bool:
    assert process.process is not None
    return Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def stopped(tmp_path: Path, driver: Driver, kubelet: Kubelet) -> Iterator[Process]:
    """A provisioner that is stopped while it removes a version that is not `demo`'s, whose mounts may fail twice."""
    process = Process(tmp_path, module="tests.fakes.crashing_provisioner")
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip"))
        server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
        limit = {"max-csi-mount-attempts": "2", "mount-policy": "wait"}
        demo = manifest("demo", server.api_url, version=OTHER, annotations=limit)
        process.set_dynakubes(demo, manifest("former", server.api_url, version=VERSION, annotations=limit))
        process.start(CRASH_AT="version in the trash", CRASH_SIGNAL="SIGSTOP")
        try:
            process.await_ready(OTHER)
            process.await_ready(VERSION, "former")
            process.set_dynakubes(demo)
            eventually(lambda: is_stopped(process), what=process.log.read_text)
            yield process
        finally:
            process.kill()


def resume(process: Process) -> None:
    assert process.process is not None
    process.process.send_signal(signal.SIGCONT)


class TestAProvisionerThatIsStoppedInARemoval:
    @pytest.mark.parametrize("wait_seconds", [0.5])
    def test_costs_a_publish_a_counted_attempt_after_its_wait_and_in_the_end_the_agent(
        self, driver: Driver, kubelet: Kubelet, stopped: Process, wait_seconds: float
    ) -> None:
        for attempt in (1, 2):
            began = time.monotonic()
            with refused(grpc.StatusCode.UNAVAILABLE, f"attempt {attempt} of 2: the provisioner is removing versions"):
                kubelet.publish("pod1")
            assert time.monotonic() - began >= wait_seconds
            assert driver.rows()["csi-pod1"]["attempts"] == attempt
        target = kubelet.publish("pod1")
        assert driver.state("pod1") == "empty"
        assert not os.path.ismount(target)

    def test_keeps_no_other_call_waiting(self, driver: Driver, kubelet: Kubelet, stopped: Process) -> None:
        answers = [kubelet.begin(f"pod{number}", timeout=120) for number in range(30)]
        eventually(lambda: waiting() == len(answers))
        for _ in range(10):
            assert kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=PROMPT_SECONDS).ready.value
            kubelet.unpublish("unknown", timeout=PROMPT_SECONDS)
        assert not any(answer.done() for answer in answers)
        resume(stopped)
        for number, answer in enumerate(answers):
            answer.result(60)
            kubelet.unpublish(f"pod{number}", timeout=PROMPT_SECONDS)
        eventually(lambda: driver.rows() == {})

    def test_is_waited_for_by_a_publish_which_mounts_once_it_goes_on(
        self, driver: Driver, kubelet: Kubelet, stopped: Process
    ) -> None:
        answer = kubelet.begin("pod1")
        eventually(lambda: waiting() == 1)
        resume(stopped)
        answer.result(60)
        assert os.path.ismount(kubelet.target("pod1"))
        eventually(lambda: driver.state("pod1") == "mounted")
        assert agent_version(driver.rows()["csi-pod1"]["version"]) == OTHER

    def test_makes_way_for_an_unpublish_of_the_volume_itself(
        self, driver: Driver, kubelet: Kubelet, stopped: Process
    ) -> None:
        answer = kubelet.begin("pod1")
        eventually(lambda: waiting() == 1)
        with refused(grpc.StatusCode.ABORTED):
            kubelet.unpublish("pod1", timeout=PROMPT_SECONDS)
        assert status_of(answer.exception(20) or answer)[0] == grpc.StatusCode.UNAVAILABLE
        kubelet.unpublish("pod1", timeout=PROMPT_SECONDS)
        assert driver.rows() == {}
