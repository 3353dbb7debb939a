"""A server killed between any two of its steps: the next one puts everything right, and kubelet notices nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from oneagent.csi_driver.data_dir import VolumeId
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node import invariants
from tests.node.answers import eventually

KINDS: Final[dict[str, dict[str, Any]]] = {
    "view": {},
    "read-only view": {"read_only": True},
    "host": {"mode": "host"},
    "files": {"mode": "conf", "containers": "app"},
    "user namespace": {"userNamespace": "true", "containers": "app"},
}
PUBLISH: Final = {
    "view": ["upper created", "config written", "target created", "mounted", "result recorded"],
    "read-only view": ["upper created", "config written", "target created", "mounted", "result recorded"],
    "host": ["intent recorded", "mounted"],
    "files": ["config written"],
    "user namespace": [
        *("upper created", "config written", "target created", "files mounted", "mounted", "result recorded"),
    ],
}
UNPUBLISH: Final = ["unmounted", "target removed", "upper discarded"]
FAILED_MOUNT: Final = ["upper created", "config written", "target created", "unmounted"]
COMMAND: Final = (sys.executable, "-m", "tests.fakes.crashing_server")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """Not started: a test starts it with the step to die at."""
    driver = Driver(tmp_path, "--publish-wait=50ms", command=COMMAND)
    node.install(driver.data)
    node.want(driver.data, node.demo())
    yield driver
    driver.kill()
    node.unmount_all(driver)


def start(driver: Driver, crash_at: str = "", trace: Path | str = "") -> Kubelet:
    root = str(Path(__file__).parents[2])
    return driver.start(environment={"CRASH_AT": crash_at, "CRASH_TRACE": str(trace), "PYTHONPATH": root})


def wait_for_death(driver: Driver) -> None:
    assert driver.process is not None
    assert driver.process.wait(10) == -9


def is_sound(driver: Driver) -> bool:
    return invariants.violations(driver.data, str(driver.target_root), driver.rows()) == []


def assert_nothing_remains(driver: Driver) -> None:
    assert invariants.remains(driver.data, str(driver.target_root), driver.rows()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_that_these_tests_know_are_all_that_there_are(driver: Driver, tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "trace"
    kubelet = start(driver, trace=trace)
    kubelet.publish("pod1", **KINDS[kind])
    eventually(lambda: trace.read_text().splitlines() == PUBLISH[kind])
    trace.write_text("")
    kubelet.unpublish("pod1")
    assert trace.read_text().splitlines() == UNPUBLISH


def test_the_steps_of_a_mount_that_fails_are_known_too(driver: Driver, tmp_path: Path) -> None:
    node.want(driver.data, node.demo(layer=node.torn_layer(driver.data)))
    kubelet = start(driver, trace=tmp_path / "trace")
    with contextlib.suppress(grpc.RpcError):
        kubelet.publish("pod1")
    assert (tmp_path / "trace").read_text().splitlines() == FAILED_MOUNT


@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind, steps in PUBLISH.items() for step in steps])
def test_a_crash_in_a_publish(driver: Driver, kind: str, step: str) -> None:
    kubelet = start(driver, crash_at=step)
    with contextlib.suppress(grpc.RpcError):
        kubelet.publish("pod1", **KINDS[kind])
    wait_for_death(driver)
    was_mounted = bool(driver.mounts())
    kubelet = start(driver)
    assert is_sound(driver)
    assert bool(driver.mounts()) == was_mounted
    view = kubelet.publish("pod1", **KINDS[kind])
    assert len(driver.mounts()) == {"files": 0, "user namespace": 2}.get(kind, 1)
    if kind in {"files", "user namespace"}:
        assert "containerName app" in (view / "agent/conf/container_app.conf").read_text()
    if kind not in {"host", "files"}:
        assert "k8s_fullpodname pod1" in (view / "agent/conf/container.conf").read_text()
    eventually(lambda: is_sound(driver))
    kubelet.unpublish("pod1")
    assert_nothing_remains(driver)


@pytest.mark.parametrize(
    ("kind", "step"), [(kind, step) for kind in ("view", "files", "user namespace") for step in PUBLISH[kind]]
)
def test_a_crash_in_a_publish_whose_pod_is_deleted_meanwhile(driver: Driver, kind: str, step: str) -> None:
    kubelet = start(driver, crash_at=step)
    with contextlib.suppress(grpc.RpcError):
        kubelet.publish("pod1", **KINDS[kind])
    wait_for_death(driver)
    kubelet = start(driver)
    kubelet.unpublish("pod1")
    assert_nothing_remains(driver)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", UNPUBLISH)
def test_a_crash_in_an_unpublish(driver: Driver, kind: str, step: str) -> None:
    kubelet = start(driver, crash_at=step)
    kubelet.publish("pod1", **KINDS[kind])
    kubelet.publish("bystander")
    with contextlib.suppress(grpc.RpcError):
        kubelet.unpublish("pod1")
    wait_for_death(driver)
    kubelet = start(driver)
    # Kubelet has not seen the end of it: it asks again, and nothing is left then.
    kubelet.unpublish("pod1")
    assert is_sound(driver)
    assert (kubelet.target("bystander") / "agent").is_dir()
    kubelet.unpublish("bystander")
    assert_nothing_remains(driver)


@pytest.mark.parametrize("step", FAILED_MOUNT)
def test_a_crash_in_a_mount_that_fails(driver: Driver, step: str) -> None:
    node.want(driver.data, node.demo(layer=node.torn_layer(driver.data)))
    kubelet = start(driver, crash_at=step)
    with contextlib.suppress(grpc.RpcError):
        kubelet.publish("pod1")
    wait_for_death(driver)
    node.want(driver.data, node.demo())
    kubelet = start(driver)
    assert is_sound(driver)
    assert (kubelet.publish("pod1") / "agent").is_dir()
    kubelet.unpublish("pod1")
    assert_nothing_remains(driver)


@pytest.mark.parametrize("step", ["upper created", "target created", "mounted"])
def test_a_crash_among_many(driver: Driver, step: str) -> None:
    """The tenth of thirty publishes that go on at once kills all of them, each somewhere else on its way."""
    kubelet = start(driver, crash_at=f"{step}#10")
    answers = [kubelet.begin(f"pod{number}") for number in range(30)]
    wait_for_death(driver)
    for answer in answers:
        answer.exception(10)
    kubelet = start(driver)
    assert is_sound(driver)
    for number in range(30):
        kubelet.publish(f"pod{number}")
    assert len(driver.mounts()) == 30
    for number in range(30):
        kubelet.unpublish(f"pod{number}")
    assert_nothing_remains(driver)


def test_crashes_one_after_the_other_at_each_step_of_the_same_publish(driver: Driver) -> None:
    for step in PUBLISH["view"]:
        kubelet = start(driver, crash_at=step)
        with contextlib.suppress(grpc.RpcError):
            kubelet.publish("pod1")
        if driver.process is not None and driver.process.poll() is None and driver.mounts():
            driver.kill()
            break
        wait_for_death(driver)
    kubelet = start(driver)
    (kubelet.publish("pod1") / "agent/mark").write_text("x")
    eventually(lambda: is_sound(driver))
    assert Path(driver.data.volume(VolumeId("csi-pod1")).upper, "agent/mark").exists()
    kubelet.unpublish("pod1")
    assert_nothing_remains(driver)


@pytest.mark.parametrize("database", ["kept", "lost"])
def test_a_view_below_a_symlink_to_kubelets_root_keeps_its_path_over_a_start(tmp_path: Path, database: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "kubelet").symlink_to(tmp_path / "real")
    with node.running(tmp_path) as (driver, before):
        before.publish("pod1")
        eventually(lambda: driver.state("pod1") == "mounted")
        driver.kill()
        if database == "lost":
            for file in driver.data.root.glob("metadata.db*"):
                file.unlink()
        kubelet = driver.start()
        try:
            kubelet.publish("pod1")
            kubelet.unpublish("pod1")
            assert driver.rows() == {}
            assert list(driver.data.volumes.iterdir()) == []
        finally:
            subprocess.run(["umount", "-q", kubelet.target("pod1")], check=False)
