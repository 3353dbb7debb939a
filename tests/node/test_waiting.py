"""Publishes that wait for their version: woken at once, given up in time, and in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, Version, agent_version
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.server.request_validation import POD_NAMESPACE, POD_UID
from oneagent.csi_driver.store import store_key
from tests.fakes import node, ports
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused, status_of

PODS_ON_A_NODE = 110


METRICS = f"127.0.0.1:{ports.free()}"


def metric(name: str) -> float:
    return ports.metric(METRICS, name)


def waiting() -> int:
    """How many publishes wait, as the driver's metrics say."""
    return int(metric("oneagent_csi_waiting_publishes"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    place = tmp_path_factory.mktemp("waiting")
    with node.running(place, "--publish-wait=30s", f"--metrics-address={METRICS}") as (driver, _):
        yield driver


@pytest.fixture
def version() -> Version:
    return store_key.of_version(Version(f"8.0.{time.monotonic_ns()}"), "tests")


@pytest.fixture
def slow(driver: Driver, version: Version) -> str:
    """A DynaKube whose version is not there yet."""
    wanted = late(version)
    node.want(driver.data, node.demo(), wanted)
    return wanted.name


def late(version: Version) -> DesiredState:
    return node.demo(name=DynaKubeName(f"late{agent_version(version).rpartition('.')[2]}"), version=version)


def begin(kubelet: Kubelet, volume: str, namespace: str, *, pod: str = "", dynakube: str, timeout: float = 60) -> Any:
    """Begin to publish a volume of a pod in this namespace; of several volumes of one pod, `pod` is its name."""
    target = kubelet.target(volume)
    target.parent.mkdir(parents=True, exist_ok=True)
    request = kubelet.request(volume, dynakube=dynakube)
    request.volume_context[POD_NAMESPACE] = namespace
    if pod:
        request.volume_context[POD_UID] = f"uid-{pod}"
    return kubelet.node.NodePublishVolume.future(request, timeout=timeout)


def status_of_failure(answer: Any) -> tuple[grpc.StatusCode, str]:
    """Wait for the answer, and return status and message of its error."""
    return status_of(answer.exception(20))


@pytest.fixture(autouse=True)
def nobody_waits() -> None:
    """Each test begins with those of the one before it gone."""
    eventually(lambda: waiting() == 0)


class TestAWaitingPublish:
    def test_is_woken_by_the_version_in_the_store(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        answer = kubelet.begin("woken", dynakube=slow)
        eventually(lambda: waiting() == 1)
        node.install(driver.data, version)
        answer.result(10)
        assert os.path.ismount(kubelet.target("woken"))

    def test_says_in_the_node_s_diagnosis_what_it_waits_for(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        answer = kubelet.begin("asked", dynakube=slow)
        command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", "why", "default/asked", "-ojson"]

        def diagnosis() -> dict[str, str]:
            done = subprocess.run([*command, f"--data-dir={driver.data.root}"], stdout=subprocess.PIPE, check=False)
            found: dict[str, str] = json.loads(done.stdout)["verdict"]
            return found

        eventually(lambda: diagnosis()["reason"] == "Waiting")
        assert f"{agent_version(version)} is not in the store yet" in diagnosis()["sentence"]
        node.install(driver.data, version)
        answer.result(10)
        eventually(lambda: diagnosis()["reason"] != "Waiting")

    def test_is_woken_by_its_dynakube_where_none_has_been_read_yet(self, tmp_path: Path) -> None:
        metrics = f"127.0.0.1:{ports.free()}"
        fresh = Driver(tmp_path, "--publish-wait=30s", f"--metrics-address={metrics}")
        node.install(fresh.data)
        try:
            kubelet = fresh.start()
            answer = kubelet.begin("first")
            eventually(lambda: ports.metric(metrics, "oneagent_csi_waiting_publishes") == 1)
            node.want(fresh.data, node.demo())
            answer.result(10)
            assert os.path.ismount(kubelet.target("first"))
        finally:
            fresh.kill()
            node.unmount_all(fresh)

    def test_is_woken_by_another_wanted_version_that_is_there_already(
        self, driver: Driver, kubelet: Kubelet, slow: str
    ) -> None:
        answer = kubelet.begin("rewanted", dynakube=slow)
        eventually(lambda: waiting() == 1)
        node.want(driver.data, node.demo(), node.demo(name=DynaKubeName(slow)))
        answer.result(10)
        eventually(lambda: driver.state("rewanted") == "mounted")
        assert driver.rows()["csi-rewanted"]["version"] == node.VERSION

    def test_makes_a_second_call_for_its_volume_come_back_later(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        answer = kubelet.begin("twice", dynakube=slow)
        eventually(lambda: waiting() == 1)
        with refused(grpc.StatusCode.ABORTED, "csi-twice: a publish is under way"):
            kubelet.publish("twice", dynakube=slow)
        node.install(driver.data, version)
        answer.result(10)
        kubelet.publish("twice", dynakube=slow)

    def test_is_given_up_for_an_unpublish(self, driver: Driver, kubelet: Kubelet, slow: str, version: Version) -> None:
        answer = kubelet.begin("cancelled", dynakube=slow)
        eventually(lambda: waiting() == 1)
        with refused(grpc.StatusCode.ABORTED):
            kubelet.unpublish("cancelled")
        assert status_of(answer.exception(10))[0] == grpc.StatusCode.UNAVAILABLE
        kubelet.unpublish("cancelled")
        assert "csi-cancelled" not in driver.rows()
        node.install(driver.data, version)
        time.sleep(0.1)
        assert not kubelet.target("cancelled").exists()

    def test_frees_its_volume_and_counts_nothing_when_its_client_goes_away(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        answer = kubelet.begin("gone", dynakube=slow)
        eventually(lambda: waiting() == 1)
        answer.cancel()
        eventually(lambda: waiting() == 0, 10)
        assert driver.rows().get("csi-gone", {"attempts": 0})["attempts"] == 0
        node.install(driver.data, version)
        kubelet.publish("gone", dynakube=slow)

    def test_answers_before_its_callers_deadline(self, driver: Driver, kubelet: Kubelet, slow: str) -> None:
        counted = metric("oneagent_csi_failed_mount_attempts_total")
        began = time.monotonic()
        with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 10"):
            kubelet.publish("deadline", timeout=1.5, dynakube=slow)
        assert time.monotonic() - began >= 0.4
        assert metric("oneagent_csi_failed_mount_attempts_total") == counted + 1


class TestCoverage:
    def test_counts_a_pod_from_its_first_failed_call_and_as_monitored_once_it_has_its_view(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        def covered(metric_name: str) -> float:
            labels = f'dynakube="{slow}",pod_namespace="covered"'
            return metric(f"oneagent_csi_{metric_name}_pods{{{labels}}}")

        with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 10"):
            begin(kubelet, "covered", "covered", dynakube=slow, timeout=1.5).result()
        assert (covered("eligible"), covered("monitored")) == (1, 0)
        node.install(driver.data, version)
        begin(kubelet, "covered", "covered", dynakube=slow).result()
        assert (covered("eligible"), covered("monitored")) == (1, 1)
        kubelet.unpublish("covered")


class TestManyAtOnce:
    def test_all_pods_of_a_node_get_their_view_once_the_version_is_there(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        pods = [f"many{number}" for number in range(PODS_ON_A_NODE)]
        answers = [kubelet.begin(pod, dynakube=slow) for pod in pods]
        eventually(lambda: waiting() == PODS_ON_A_NODE)
        node.install(driver.data, version)
        for answer in answers:
            answer.result(10)
        targets = [str(kubelet.target(pod)) for pod in pods]
        mounted = [mount.target for mount in driver.mounts()]
        assert sorted(target for target in mounted if "/many" in target) == sorted(targets)
        eventually(lambda: {row["state"] for pod, row in driver.rows().items() if "many" in pod} == {"mounted"})
        for pod in pods:
            kubelet.unpublish(pod)
        assert not [mount for mount in driver.mounts() if "/many" in mount.target]

    def test_never_delays_those_whose_version_is_there(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        answers = [kubelet.begin(f"slow{number}", dynakube=slow) for number in range(50)]
        eventually(lambda: waiting() == 50)
        for number in range(10):
            kubelet.publish(f"quick{number}", timeout=10)
            kubelet.unpublish(f"quick{number}", timeout=10)
        assert not any(answer.done() for answer in answers)
        for answer in answers:
            answer.cancel()

    def test_more_than_can_wait_are_told_to_come_back_without_being_counted(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        pods = {f"crowd{number}": f"team{number % 3}" for number in range(450)}
        answers = [begin(kubelet, pod, namespace, dynakube=slow) for pod, namespace in pods.items()]
        eventually(lambda: waiting() >= 400 and sum(answer.done() for answer in answers) >= 50)
        kubelet.publish("beside-the-crowd")
        turned_away = [answer for answer in answers if answer.done()]
        for answer in turned_away:
            code, message = status_of(answer)
            assert code == grpc.StatusCode.UNAVAILABLE
            assert "other volumes are waiting" in message
        # Those that wait have a row too, which says what for.
        crowd = [
            row for volume, row in driver.rows().items() if volume.startswith("csi-crowd") and row["first_failed_at"]
        ]
        assert [row["attempts"] for row in crowd] == [0] * 50
        node.install(driver.data, version)
        assert sum(answer.exception(20) is None for answer in answers) == 400
        for pod in pods:
            kubelet.unpublish(pod)
        assert not [volume for volume in driver.rows() if volume.startswith("csi-crowd")]


class TestAPlaceToWait:
    def test_is_never_taken_by_a_dynakube_that_does_not_exist(self, driver: Driver, kubelet: Kubelet) -> None:
        answers = [begin(kubelet, f"stray{number}", f"team{number % 9}", dynakube="absent") for number in range(400)]
        for answer in answers:
            code, message = status_of_failure(answer)
            assert code == grpc.StatusCode.UNAVAILABLE
            assert "attempt 1 of 10: DynaKube 'absent' is not known on this node" in message
        assert waiting() == 0
        node.want(driver.data, node.demo(), node.demo(name=DynaKubeName("absent")))
        kubelet.publish("stray7", dynakube="absent")
        assert os.path.ismount(kubelet.target("stray7")), "kubelet's next call finds the DynaKube"

    def test_is_given_eight_times_to_one_pod(self, kubelet: Kubelet, slow: str) -> None:
        answers = [begin(kubelet, f"greedy{number}", "default", pod="greedy", dynakube=slow) for number in range(20)]
        eventually(lambda: waiting() == 8 and sum(answer.done() for answer in answers) == 12)
        assert all("8 other volumes are waiting of this pod" in status_of(each)[1] for each in answers if each.done())
        honest = begin(kubelet, "honest", "default", dynakube=slow)
        eventually(lambda: waiting() == 9)
        for answer in (*answers, honest):
            answer.cancel()

    def test_is_left_for_other_namespaces_by_one_that_fills_its_half(
        self, driver: Driver, kubelet: Kubelet, slow: str, version: Version
    ) -> None:
        greedy = [begin(kubelet, f"half{number}", "greedy", dynakube=slow) for number in range(420)]
        eventually(lambda: waiting() == 200 and sum(answer.done() for answer in greedy) == 220)
        honest = [begin(kubelet, f"honest{number}", "honest", dynakube=slow) for number in range(PODS_ON_A_NODE)]
        eventually(lambda: waiting() == 200 + PODS_ON_A_NODE)
        node.install(driver.data, version)
        assert all(answer.exception(20) is None for answer in honest)

    def test_that_a_call_does_not_find_starts_its_mount_timeout_all_the_same(
        self, driver: Driver, kubelet: Kubelet, slow: str
    ) -> None:
        crowd = [begin(kubelet, f"full{number}", f"team{number % 2}", dynakube=slow) for number in range(400)]
        eventually(lambda: waiting() == 400)
        with refused(grpc.StatusCode.UNAVAILABLE, "400 other volumes are waiting"):
            kubelet.publish("innocent", dynakube=slow, retryTimeout="500ms")
        row = driver.rows()["csi-innocent"]
        assert (row["attempts"], row["state"]) == (0, "waiting")
        assert row["first_failed_at"] > time.time() - 60
        eventually(lambda: time.time() >= row["first_failed_at"] + 0.5)
        assert waiting() == 400
        kubelet.publish("innocent", dynakube=slow, retryTimeout="500ms")
        assert driver.state("innocent") == "empty"
        assert "mount attempts failed for 0.5 s" in driver.rows()["csi-innocent"]["reason"]
        for answer in crowd:
            answer.cancel()

    def test_comes_back_when_its_call_ends(self, kubelet: Kubelet, slow: str) -> None:
        answers: dict[int, Any] = {}

        def all_wait() -> bool:
            """Begin again what was refused, as kubelet does: a place is free a moment after the call has its end."""
            for number in range(8):
                if number not in answers or answers[number].done():
                    answers[number] = begin(kubelet, f"again{number}", "default", pod="again", dynakube=slow)
            return waiting() == 8

        for _ in range(3):
            eventually(all_wait)
            for answer in answers.values():
                answer.cancel()
            eventually(lambda: waiting() == 0)
