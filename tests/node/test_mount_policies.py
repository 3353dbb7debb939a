"""What a pod gets while its DynaKube's version is not on the node, by the DynaKube's mount policy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, Version, agent_version
from oneagent.common.injection.contract import LAST_GOOD_MOUNTED
from oneagent.csi_driver.store import store_key
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.node import VERSION, Driver, Kubelet
from tests.fakes.provisioner import OTHER, eventually, manifest
from tests.node.answers import refused

LIBRARY = "agent/lib64/liboneagentproc.so"
MISSING = store_key.of_version(Version("9.9.9"), "tests")
LACKING = f"version {agent_version(MISSING)} is not in the store"
BEFORE = Version("1.270.0.20230101-000000")
"""A name of its own: whatever is mounted of a version, on any data folder, keeps that."""
WAIT_SECONDS = 0.2


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("policies"), f"--publish-wait={WAIT_SECONDS}s") as (driver, _):
        yield driver


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver whose publishes wait longer than a test."""
    with node.running(tmp_path_factory.mktemp("patient"), "--publish-wait=60s") as (driver, _):
        yield driver


@pytest.fixture
def patient_kubelet(patient: Driver) -> Kubelet:
    return Kubelet(patient.socket, patient.target_root)


def lacking(driver: Driver, policy: str, **fields: Any) -> str:
    """A DynaKube of its own for the calling test, whose version is not in the store."""
    own = {"name": DynaKubeName(f"{policy}{time.monotonic_ns()}"), "version": MISSING, "mount_policy": policy}
    row = node.demo(**(own | fields))
    node.want(driver.data, node.demo(), row)
    return row.name


class TestLastGood:
    def test_is_mounted_at_once_and_said(self, patient: Driver, patient_kubelet: Kubelet) -> None:
        driver, kubelet = patient, patient_kubelet
        dynakube = lacking(driver, "last-good", good_version=VERSION, condition="the tenant is away")
        started = time.monotonic()
        view = kubelet.publish("lucky", timeout=60, dynakube=dynakube)
        assert time.monotonic() - started < 15
        assert (view / LIBRARY).read_bytes() == b"library"
        eventually(lambda: driver.rows().get("csi-lucky", {}).get("version") == VERSION)
        (notice,) = [row for row in driver.table("notices") if row["pod_name"] == "lucky"]
        assert (notice["reason"], notice["kind"]) == (LAST_GOOD_MOUNTED, "Warning")
        assert f"last good agent version {agent_version(VERSION)}: the tenant is away" in notice["message"]
        assert "last_good" in driver.log.read_text()
        assert not kubelet.stats("lucky").volume_condition.abnormal

    @pytest.mark.parametrize("good", ["", "8.8.8", MISSING])
    def test_that_is_not_there_either_is_waited_for(self, driver: Driver, kubelet: Kubelet, good: str) -> None:
        dynakube = lacking(driver, "last-good", good_version=good)
        with refused(grpc.StatusCode.UNAVAILABLE, f"attempt 1 of 10: {LACKING}"):
            kubelet.publish(f"unlucky{good}", dynakube=dynakube)

    def test_is_no_reason_to_leave_the_wanted_version_once_it_is_there(self, driver: Driver, kubelet: Kubelet) -> None:
        wanted = store_key.of_version(Version("5.5.5"), "tests")
        dynakube = lacking(driver, "last-good", version=wanted, good_version=VERSION)
        node.install(driver.data, wanted, b"newer")
        assert (kubelet.publish("newest", dynakube=dynakube) / LIBRARY).read_bytes() == b"newer"

    def test_is_not_mounted_by_other_policies(self, driver: Driver, kubelet: Kubelet) -> None:
        for policy in ("wait", "fail"):
            dynakube = lacking(driver, policy, good_version=VERSION)
            with refused(grpc.StatusCode.UNAVAILABLE, "is not in the store"):
                kubelet.publish(f"pod-{policy}", dynakube=dynakube)


class TestWaitThenLastGood:
    """The default."""

    def test_is_mounted_after_one_publish_wait_and_said(self, driver: Driver, kubelet: Kubelet) -> None:
        dynakube = lacking(driver, "wait-then-last-good", good_version=VERSION, condition="the tenant is away")
        started = time.monotonic()
        kubelet.publish("patient-lucky", dynakube=dynakube)
        assert time.monotonic() - started >= WAIT_SECONDS
        assert (kubelet.target("patient-lucky") / LIBRARY).read_bytes() == b"library"
        eventually(lambda: driver.rows().get("csi-patient-lucky", {}).get("version") == VERSION)
        (notice,) = [row for row in driver.table("notices") if row["pod_name"] == "patient-lucky"]
        assert (notice["reason"], notice["kind"]) == (LAST_GOOD_MOUNTED, "Warning")
        assert "the tenant is away" in notice["message"]

    def test_gives_way_to_the_wanted_version_that_comes_meanwhile(
        self, patient: Driver, patient_kubelet: Kubelet
    ) -> None:
        driver, kubelet = patient, patient_kubelet
        wanted = store_key.of_version(Version("6.6.6"), "tests")
        dynakube = lacking(driver, "wait-then-last-good", version=wanted, good_version=VERSION)
        answer = kubelet.begin("patient-newest", dynakube=dynakube)
        node.install(driver.data, wanted, b"newer")
        answer.result(10)
        assert (kubelet.target("patient-newest") / LIBRARY).read_bytes() == b"newer"

    def test_without_a_last_good_version_the_limits_count(self, driver: Driver, kubelet: Kubelet) -> None:
        dynakube = lacking(driver, "wait-then-last-good", mount_attempts=1)
        with refused(grpc.StatusCode.UNAVAILABLE, f"attempt 1 of 1: {LACKING}"):
            kubelet.publish("patient-unlucky", dynakube=dynakube)
        kubelet.publish("patient-unlucky", dynakube=dynakube)
        assert driver.state("patient-unlucky") == "empty"

    def test_prefers_the_last_good_version_to_an_empty_view(self, driver: Driver, kubelet: Kubelet) -> None:
        dynakube = lacking(driver, "wait-then-last-good", good_version=VERSION, mount_attempts=0)
        assert (kubelet.publish("hopeless", dynakube=dynakube) / LIBRARY).read_bytes() == b"library"


class TestFail:
    def test_never_gives_an_empty_view_whatever_the_limits(self, driver: Driver, kubelet: Kubelet) -> None:
        dynakube = lacking(driver, "fail", mount_attempts=0, mount_timeout_seconds=0.0)
        for attempt in (1, 2, 3):
            with refused(grpc.StatusCode.UNAVAILABLE, f"attempt {attempt}: {LACKING}"):
                kubelet.publish("patient", dynakube=dynakube, retryTimeout="0s")
        node.install(driver.data, MISSING, b"at last")
        assert (kubelet.publish("patient", dynakube=dynakube) / LIBRARY).read_bytes() == b"at last"


class TestPodWithTheFailurePolicyFail:
    """It gets the last good version as any other pod does, and never an empty view."""

    @pytest.mark.parametrize("policy", ["last-good", "wait-then-last-good"])
    def test_starts_with_the_last_good_version(self, driver: Driver, kubelet: Kubelet, policy: str) -> None:
        never = store_key.of_version(Version("7.7.7"), "tests")
        dynakube = lacking(driver, policy, version=never, good_version=VERSION, mount_attempts=0)
        name = f"insisting-{policy}"
        view = kubelet.publish(name, dynakube=dynakube, failurePolicy="fail")
        assert (view / LIBRARY).read_bytes() == b"library"
        told = {"pod_name": name, "reason": LAST_GOOD_MOUNTED}.items()
        eventually(lambda: any(told <= row.items() for row in driver.table("notices")))

    @pytest.mark.parametrize("policy", ["last-good", "wait-then-last-good"])
    def test_without_one_is_refused_with_the_reason_and_starts_once_the_wanted_version_is_there(
        self, driver: Driver, kubelet: Kubelet, policy: str
    ) -> None:
        wanted = store_key.of_version(Version(f"7.8.{len(policy)}"), "tests")
        dynakube = lacking(driver, policy, version=wanted, mount_attempts=0)
        name = f"insisting-in-vain-{policy}"
        with refused(grpc.StatusCode.UNAVAILABLE, "failurePolicy fail: the pod starts once its agent is mounted"):
            kubelet.publish(name, dynakube=dynakube, failurePolicy="fail")
        with refused(grpc.StatusCode.UNAVAILABLE, f"attempt 2: version {agent_version(wanted)} is not in the store"):
            kubelet.publish(name, dynakube=dynakube, failurePolicy="fail")
        node.install(driver.data, wanted, b"at last")
        kubelet.publish(name, dynakube=dynakube, failurePolicy="fail")
        assert (kubelet.target(name) / LIBRARY).read_bytes() == b"at last"


def test_the_version_before_is_kept_and_mounted_with_its_configuration_until_the_new_one_is_there(
    tmp_path: Path,
) -> None:
    lasting = {"mount-policy": "last-good"}
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    with double.Tenant() as server:
        server.release(BEFORE, packages.build(tmp_path / "agent.zip", BEFORE))
        server.properties = [{"section": "general", "key": "fromTenant", "value": "yes"}]
        try:
            with provisioner.running(tmp_path, "--gc-interval=100ms") as process:
                process.set_dynakubes(manifest("demo", server.api_url, version=BEFORE, annotations=lasting))
                process.await_ready(BEFORE)
                kubelet = driver.start()
                process.set_dynakubes(manifest("demo", server.api_url, version=OTHER, annotations=lasting))
                eventually(lambda: "can't be installed" in process.row().get("condition", ""), what=process.row)
                view = kubelet.publish("now")
                assert (view / "agent/installer.version").read_text() == BEFORE
                assert "fromTenant yes" in (view / "agent/conf/ruxitagentproc.conf").read_text()
                kubelet.unpublish("now")
                assert process.versions() == [BEFORE]
                server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
                process.await_ready(OTHER, seconds=30)
                eventually(lambda: process.versions() == [OTHER], what=lambda: process.log.read_text()[-1500:])
                assert (kubelet.publish("later") / "agent/installer.version").read_text() == OTHER
        finally:
            driver.kill()
            node.unmount_all(driver)
