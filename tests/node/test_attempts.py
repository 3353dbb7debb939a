"""How often a mount may fail before its pod starts with an empty view: exactly as often as was said."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import inert_library
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused

MISSING = store_key.of_version(Version("9.9.9"), "tests")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("attempts"), "--publish-wait=50ms") as (driver, _):
        yield driver


def lacking(driver: Driver, **fields: Any) -> str:
    """A DynaKube of its own for the calling test, whose version is not in the store."""
    name = f"lacking{time.monotonic_ns()}"
    node.want(driver.data, node.demo(), node.demo(**({"name": DynaKubeName(name), "version": MISSING} | fields)))
    return name


def fail(kubelet: Kubelet, pod: str, containing: str = "", **fields: Any) -> None:
    with refused(grpc.StatusCode.UNAVAILABLE, containing):
        kubelet.publish(pod, **fields)


def is_empty_view(target: Path) -> bool:
    """All that an empty view has is the inert library."""
    found = [str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()]
    return not os.path.ismount(target) and found == [PRELOAD_LIBRARY] and inert_library.is_inert(f"{target}/{found[0]}")


class TestTheLimit:
    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_of_n_means_that_n_calls_fail_and_the_next_one_succeeds(
        self, driver: Driver, kubelet: Kubelet, limit: int
    ) -> None:
        dynakube = lacking(driver, mount_attempts=limit)
        pod = f"limit{limit}"
        for attempt in range(1, limit + 1):
            fail(kubelet, pod, f"attempt {attempt} of {limit}", dynakube=dynakube)
            assert not kubelet.target(pod).exists()
            assert driver.rows()[kubelet.volume_id(pod)]["attempts"] == attempt
        assert is_empty_view(kubelet.publish(pod, dynakube=dynakube))
        assert driver.state(pod) == "empty"
        (notice,) = [row for row in driver.table("notices") if row["pod_name"] == pod]
        assert f"{limit} mount attempts failed (the limit is {limit})" in notice["message"]
        kubelet.unpublish(pod)
        assert not kubelet.target(pod).exists()
        assert kubelet.volume_id(pod) not in driver.rows()

    def test_is_ten_for_a_dynakube_that_nobody_knows(self, kubelet: Kubelet) -> None:
        for _ in range(10):
            fail(kubelet, "nobody", "'stranger' is not known", dynakube="stranger")
        assert is_empty_view(kubelet.publish("nobody", dynakube="stranger"))

    def test_counts_a_dynakube_without_a_version_and_says_its_condition(self, driver: Driver, kubelet: Kubelet) -> None:
        dynakube = lacking(driver, version=Version(""), condition="the tenant is away", mount_attempts=1)
        fail(kubelet, "versionless", "attempt 1 of 1: the tenant is away", dynakube=dynakube)
        assert is_empty_view(kubelet.publish("versionless", dynakube=dynakube))

    def test_counts_a_mount_that_the_kernel_refuses_and_leaves_nothing_of_it(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        dynakube = lacking(driver, version=node.VERSION, layer=node.torn_layer(driver.data), mount_attempts=2)
        for attempt in (1, 2):
            fail(kubelet, "torn", f"attempt {attempt} of 2: the view can't be mounted", dynakube=dynakube)
            assert not kubelet.target("torn").exists()
            assert "csi-torn" not in os.listdir(driver.data.volumes)
        assert is_empty_view(kubelet.publish("torn", dynakube=dynakube))
        kubelet.unpublish("torn")
        assert "csi-torn" not in driver.rows()

    def test_is_not_touched_by_a_mount_that_works_and_begins_anew_after_it(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        version = store_key.of_version(Version("3.3.3"), "tests")
        dynakube = lacking(driver, version=version, mount_attempts=3)
        for _ in range(2):
            fail(kubelet, "reset", dynakube=dynakube)
        node.install(driver.data, version)
        assert os.path.ismount(kubelet.publish("reset", dynakube=dynakube))
        eventually(lambda: driver.state("reset") == "mounted")
        row = driver.rows()["csi-reset"]
        assert (row["attempts"], row["first_failed_at"]) == (0, 0.0)
        # As after a reboot, with a store that lost the version.
        node.unmount_all(driver)
        Path(driver.data.agent(version)).rename(driver.data.trash / "lost")
        fail(kubelet, "reset", "attempt 1 of 3", dynakube=dynakube)


class TestTheTimeout:
    def test_ends_the_failing_once_it_has_passed_since_the_first_failure(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        dynakube = lacking(driver, mount_timeout_seconds=1.5, mount_attempts=1000)
        first_began = time.monotonic()
        fail(kubelet, "timed", dynakube=dynakube)
        first_failed = time.monotonic()
        calls = 0
        while True:
            began = time.monotonic()
            try:
                target = kubelet.publish("timed", dynakube=dynakube)
                break
            except grpc.RpcError:
                calls += 1
                assert began < first_failed + 1.5
        assert is_empty_view(target)
        assert calls >= 2
        assert time.monotonic() >= first_began + 1.5
        assert "for 1.5 s (the mount timeout)" in driver.rows()["csi-timed"]["reason"]

    def test_ends_a_wait_that_is_under_way(self, tmp_path: Path) -> None:
        with node.running(tmp_path, "--publish-wait=60s") as (driver, kubelet):
            dynakube = lacking(driver, mount_timeout_seconds=1.0)
            began = time.monotonic()
            # Its first call leaves 50 ms to wait: the server answers a second before the caller's deadline.
            with pytest.raises(grpc.RpcError):
                kubelet.publish("overtaken", timeout=1.05, dynakube=dynakube)
            eventually(lambda: driver.rows().get("csi-overtaken", {}).get("attempts") == 1)
            assert is_empty_view(kubelet.publish("overtaken", timeout=60, dynakube=dynakube))
            assert 1.0 <= time.monotonic() - began < 20

    def test_of_the_volume_goes_before_that_of_the_dynakube(self, driver: Driver, kubelet: Kubelet) -> None:
        patient = lacking(driver, mount_timeout_seconds=600.0)
        fail(kubelet, "hasty", dynakube=patient, retryTimeout="100ms")
        time.sleep(0.1)
        assert is_empty_view(kubelet.publish("hasty", dynakube=patient, retryTimeout="100ms"))
        hasty = lacking(driver, mount_timeout_seconds=0.0)
        fail(kubelet, "patient", dynakube=hasty, retryTimeout="1h")
        fail(kubelet, "patient", "attempt 2", dynakube=hasty, retryTimeout="1h")


class TestAVersionThatComesInTime:
    def test_is_mounted_at_the_last_attempt(self, driver: Driver, kubelet: Kubelet) -> None:
        version = store_key.of_version(Version("4.4.4"), "tests")
        dynakube = lacking(driver, version=version, mount_attempts=2)
        for _ in range(2):
            fail(kubelet, "late", dynakube=dynakube)
        node.install(driver.data, version)
        # The limit is reached, but the agent is there: the pod gets it.
        assert (kubelet.publish("late", dynakube=dynakube) / "agent").is_dir()


class TestAnEmptyView:
    @pytest.fixture
    def dynakube(self, driver: Driver) -> str:
        return lacking(driver, mount_attempts=0)

    def test_that_its_pod_wrote_into_is_removed_with_all_that_is_in_it(
        self, driver: Driver, kubelet: Kubelet, dynakube: str
    ) -> None:
        target = kubelet.publish("writer", dynakube=dynakube)
        (target / "log/sub").mkdir(parents=True)
        (target / "log/sub/file").write_text("x")
        (target / "away").symlink_to(driver.data.root)
        kubelet.unpublish("writer")
        assert not target.exists()
        assert Path(driver.data.agent(node.VERSION)).is_dir()

    def test_stays_empty_and_is_told_of_once_when_it_is_published_again(
        self, driver: Driver, kubelet: Kubelet, dynakube: str
    ) -> None:
        for _ in range(3):
            assert is_empty_view(kubelet.publish("again", dynakube=dynakube))
        assert len([row for row in driver.table("notices") if row["pod_name"] == "again"]) == 1

    def test_becomes_a_real_one_when_it_is_published_again_after_its_version_came(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        version = store_key.of_version(Version("5.5.5"), "tests")
        dynakube = lacking(driver, version=version, mount_attempts=0)
        assert is_empty_view(kubelet.publish("belated", dynakube=dynakube))
        node.install(driver.data, version)
        assert os.path.ismount(kubelet.publish("belated", dynakube=dynakube))
        eventually(lambda: driver.state("belated") == "mounted")
        kubelet.unpublish("belated")
        assert not kubelet.target("belated").exists()


class TestAKilledDriver:
    def test_goes_on_counting_where_it_was(self, tmp_path: Path) -> None:
        wanted: tuple[DesiredState, ...] = (node.demo(version=MISSING, mount_attempts=3),)
        with node.running(tmp_path, "--publish-wait=50ms") as (driver, kubelet):
            node.want(driver.data, *wanted)
            fail(kubelet, "pod1", "attempt 1 of 3")
            for attempt in (2, 3):
                driver.kill()
                fail(driver.start(), "pod1", f"attempt {attempt} of 3")
            for _ in range(2):
                driver.kill()
                assert is_empty_view(driver.start().publish("pod1"))
