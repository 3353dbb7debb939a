"""The provisioner and the process that unpacks a package: what that takes from the node, and what its end does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes import packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, Process, eventually, manifest

VERSION = packages.VERSION
MORE = ("1.301.0.20240101-000000", "1.302.0.20240101-000000", "1.303.0.20240101-000000")


@pytest.fixture
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that takes a while to unpack."""
    return packages.build(tmp_path_factory.mktemp("packages") / "agent.zip", filler=48 << 20)


def find_child(process: Process) -> int | None:
    assert process.process is not None
    children = psutil.Process(process.process.pid).children()
    return children[0].pid if children else None


def is_unpacking(process: Process) -> bool:
    return any(any(tree.iterdir()) for tree in process.data.tmp.glob("*.tree/tree"))


def unpacking_child(process: Process) -> int:
    eventually(lambda: is_unpacking(process))
    child = find_child(process)
    assert child is not None
    return child


def resident_bytes(process: Process) -> int:
    assert process.process is not None
    lines = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def signals(pid: int, mask: str) -> set[int]:
    """Return the signals of a mask of the main thread (proc_pid_status(5)): `SigBlk` blocked, `SigCgt` handled."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(status.partition(f"{mask}:")[2].split()[0], 16)
    return {number for number in (signal.SIGTERM, signal.SIGINT) if bits >> (number - 1) & 1}


def test_stop_signals_are_awaited_by_the_provisioner_and_end_a_child(
    tmp_path: Path, server: double.Tenant, large: Path
) -> None:
    server.release(VERSION, large)
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
        child = unpacking_child(process)
        assert process.process is not None
        # A handler that needs a lock would wait forever if the main thread held it.
        assert signals(process.process.pid, "SigCgt") <= {signal.SIGINT}
        assert signals(process.process.pid, "SigBlk") == {signal.SIGTERM, signal.SIGINT}
        assert signals(child, "SigBlk") == set()
        os.kill(child, signal.SIGTERM)
        eventually(lambda: "signal 15, Terminated" in process.row().get("condition", ""), what=process.row)
        assert process.stop() == 0


def test_a_killed_child_is_a_condition_and_a_retry(tmp_path: Path, server: double.Tenant, large: Path) -> None:
    server.release(VERSION, large)
    server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
        child = unpacking_child(process)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: "signal 9, Killed" in process.row().get("condition", ""), what=process.row)
        assert not list(process.data.tmp.glob("*.tree"))
        # Others are installed meanwhile, and it is installed later, by the same provisioner.
        process.set_dynakubes(
            manifest("demo", server.api_url, version=VERSION), manifest("other", server.api_url, version=OTHER)
        )
        process.await_ready(OTHER, "other")
        process.await_ready(VERSION)
        assert find_child(process) is None
        assert provisioner.list_corrupt(process.data) == []
        assert process.stop() == 0


def test_a_stopped_provisioner_leaves_no_child(tmp_path: Path, server: double.Tenant, large: Path) -> None:
    server.release(VERSION, large)
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
        child = unpacking_child(process)
        os.kill(child, signal.SIGSTOP)  # It would not end by itself.
        assert process.stop() == 0
        eventually(lambda: not Path(f"/proc/{child}").exists())


def test_a_killed_provisioner_leaves_no_child(tmp_path: Path, server: double.Tenant, large: Path) -> None:
    server.release(VERSION, large)
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
        eventually(lambda: is_unpacking(process))
        child = find_child(process)
        process.kill()
        eventually(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))


def is_zombie(process_id: int | None) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return True


def test_three_installs_leave_no_memory_with_the_provisioner(tmp_path: Path, server: double.Tenant) -> None:
    with provisioner.running(tmp_path) as process:
        # It has asked the tenant, which has no such package yet.
        process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
        eventually(lambda: "404" in process.row().get("condition", ""), what=process.row)
        idle = resident_bytes(process)
        for number, version in enumerate(MORE):
            archive = packages.build_large(tmp_path / f"{version}.zip", version, megabytes=30, files=3000, seed=number)
            server.release(version, archive)
        process.set_dynakubes(*(manifest(f"kube{number}", server.api_url, version=v) for number, v in enumerate(MORE)))
        for number, version in enumerate(MORE):
            process.await_ready(version, f"kube{number}", 60)
        eventually(
            lambda: resident_bytes(process) <= idle + (3 << 20), what=lambda: f"{idle=} {resident_bytes(process)=}"
        )
