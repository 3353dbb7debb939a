"""`oneagent-csi why` on a real node: real views, and processes that have them mounted as a container has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused

REAL = store_key.of_version(Version("2.0.0"), "tests")
_AS_A_CONTAINER = 'mount --bind "$1" "$2" && umount "$1" && shift 2 && exec env "$@"'


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver whose version has a library that a program can really load: one that this process has loaded."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = next(path for line in maps if "/libm.so" in (path := line.split(maxsplit=5)[-1]))
    with node.running(tmp_path_factory.mktemp("why"), "--publish-wait=100ms") as (driver, _):
        node.install(driver.data, REAL, Path(library).read_bytes())
        node.want(driver.data, node.demo(version=REAL))
        yield driver


@pytest.fixture
def kubelet(driver: Driver) -> Kubelet:
    return Kubelet(driver.socket, driver.target_root)


_AS_A_CONTAINER_WITH_PARTS = (
    'mount --bind "$1/bin" "$2" && mount --bind "$1/agent/conf/container_app.conf" "$2.conf"'
    ' && umount "$1/bin" "$1" && shift 2 && exec env "$@"'
)


@contextlib.contextmanager
def container(view: Path, place: Path, script: str = _AS_A_CONTAINER, **variables: str) -> Iterator[int]:
    """A process in a mount namespace that has a view at its own place only."""
    place.mkdir()
    place.with_suffix(".conf").touch()
    given = [f"{name}={value}" for name, value in variables.items()]
    command = ["sh", "-ec", script, "sh", str(view), str(place), *given, "sleep", "1000"]
    process = subprocess.Popen(["unshare", "--mount", "--propagation=private", *command])
    try:
        comm = Path(f"/proc/{process.pid}/comm")
        eventually(lambda: comm.read_text() == "sleep\n")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def ask(driver: Driver, pod: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", "why", f"default/{pod}", "--output=json"]
    answer = subprocess.run([*command, f"--data-dir={driver.data.root}"], stdout=subprocess.PIPE, check=False)
    found: dict[str, Any] = json.loads(answer.stdout)
    assert (answer.returncode == 0) == (found["verdict"]["reason"] == "Monitored")
    return found


@pytest.mark.parametrize("read_only", [False, True], ids=["writable view", "read-only view"])
def test_a_process_that_loaded_the_library_of_its_view_is_found(
    driver: Driver, kubelet: Kubelet, tmp_path: Path, read_only: bool
) -> None:
    pod = f"loaded-{read_only}".lower()
    place = tmp_path / "agent"
    with container(kubelet.publish(pod, read_only=read_only), place, LD_PRELOAD=f"{place}/{PRELOAD_LIBRARY}") as pid:
        found = ask(driver, pod)
    assert found["verdict"]["reason"] == "Monitored"
    assert found["processes"] == [{"pid": pid, "command": "sleep", "mapped": True, "preload": True, "static": False}]
    assert found["volume"]["version"] == REAL


def test_processes_of_pods_with_a_user_namespace_are_told_apart_by_their_own_files(
    driver: Driver, kubelet: Kubelet, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"userNamespace": "true", "containers": "app"}
    place, other = tmp_path / "agent", tmp_path / "other"
    parts = _AS_A_CONTAINER_WITH_PARTS
    with (
        container(kubelet.publish("mapped", **fields), place, parts, LD_PRELOAD=f"{place}/{PRELOAD_LIBRARY}") as pid,
        container(kubelet.publish("also-mapped", **fields), other, parts) as other_pid,
    ):
        # On the node, where kubelet has bound a part of the volume too.
        part = tmp_path / "part"
        part.touch()
        subprocess.run(
            ["mount", "--bind", kubelet.target("mapped") / "agent/conf/container_app.conf", part], check=True
        )
        found, neighbour = ask(driver, "mapped"), ask(driver, "also-mapped")
        subprocess.run(["umount", part], check=True)
    assert found["verdict"]["reason"] == "Monitored"
    assert [process["pid"] for process in found["processes"]] == [pid]
    assert neighbour["verdict"]["reason"] == "NotLoaded"
    assert [process["pid"] for process in neighbour["processes"]] == [other_pid]


def test_a_process_that_was_not_told_to_load_it_is_found(driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
    view = kubelet.publish("untold")
    with container(view, tmp_path / "agent") as pid:
        found = ask(driver, "untold")
    assert found["verdict"]["reason"] == "NotLoaded"
    assert f"sleep (process {pid}) did not load the agent" in found["verdict"]["sentence"]
    assert "LD_PRELOAD was not set" in found["verdict"]["remedy"]


def test_one_pods_processes_are_not_taken_for_another_pods(driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
    other = kubelet.publish("other")
    kubelet.publish("alone")
    with container(other, tmp_path / "agent"):
        assert ask(driver, "alone")["processes"] == []


def test_a_pod_that_waits_is_told_of_with_the_drivers_reason(driver: Driver, kubelet: Kubelet) -> None:
    with refused(grpc.StatusCode.UNAVAILABLE, "not known on this node"):
        kubelet.publish("waits", dynakube="nobody")
    verdict = ask(driver, "waits")["verdict"]
    assert verdict["reason"] == "Waiting"
    assert "'nobody' is not known on this node" in verdict["sentence"]
    assert verdict["remedy"] == "create it, or wait until this node has read it; the pod then starts by itself"


def test_asking_changes_nothing(driver: Driver, kubelet: Kubelet) -> None:
    kubelet.publish("asked")
    before = sorted(os.listdir(driver.data.root))
    ask(driver, "asked")
    assert sorted(os.listdir(driver.data.root)) == before
