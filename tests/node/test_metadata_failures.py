"""A metadata database that can't be used: pods start as fast as ever, and nothing is lost once it can be."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.linux import mount_table
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused

NEVER_SLOWER_SECONDS = 4.0
BURST_SECONDS = 10.0
"""For 60 publishes; 15 if each of them waited for the database."""
MISSING = node.demo(name=DynaKubeName("missing"), version=Version("9.9.9"), mount_attempts=3)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """A driver whose data folder is a disk of its own, of 16 MiB."""
    disk = tmp_path / "data"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=True)
    try:
        with node.running(tmp_path, "--publish-wait=50ms") as (driver, _):
            node.want(driver.data, node.demo(), MISSING)
            yield driver
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextlib.contextmanager
def locked(driver: Driver) -> Iterator[None]:
    """Another process has a transaction open that excludes all writers."""
    with contextlib.closing(sqlite3.connect(driver.data.database, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def full(driver: Driver) -> Iterator[None]:
    """No block of the disk is free."""
    ballast = driver.data.root / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(driver.data.root).f_bavail == 0
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def overwritten(driver: Driver) -> Iterator[None]:
    """Somebody wrote over the file; its inode stays."""
    with driver.data.database.open("r+b") as file:
        file.write(os.urandom(driver.data.database.stat().st_size))
    yield


@contextlib.contextmanager
def deleted(driver: Driver) -> Iterator[None]:
    """The file is gone, its write-ahead log is not."""
    driver.data.database.unlink()
    yield


@contextlib.contextmanager
def replaced_by_an_older_copy(driver: Driver) -> Iterator[None]:
    """A backup from before all volumes was put in the file's place."""
    copy = driver.place / "copy.db"
    with contextlib.closing(sqlite3.connect(driver.data.database)) as original:
        original.execute("VACUUM INTO ?", [str(copy)])
    with contextlib.closing(sqlite3.connect(copy)) as older, older:
        older.execute("UPDATE volumes SET id = id || '-of-old', target = replace(target, '/volumes/', '/of-old/')")
    for suffix in ("-wal", "-shm"):
        driver.data.database.with_name(f"metadata.db{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, driver.data.root / "copy.db")
    (driver.data.root / "copy.db").rename(driver.data.database)
    yield


Failure = Callable[[Driver], AbstractContextManager[None]]
FAILURES = [locked, full, overwritten, deleted, replaced_by_an_older_copy]


def timed_publish(kubelet: Kubelet, pod: str) -> None:
    began = time.monotonic()
    view = kubelet.publish(pod)
    assert time.monotonic() - began < NEVER_SLOWER_SECONDS
    assert (view / "agent/lib64/liboneagentproc.so").read_bytes() == b"library"


def table_agrees(driver: Driver, **states: str) -> bool:
    """Whether the table holds exactly these pods, and as mounted exactly those that are."""
    try:
        rows = driver.rows()
    except sqlite3.Error:
        return False
    views = {overlay.mount.target for overlay in mount_table.overlays(driver.mounts())}
    return {volume: row["state"] for volume, row in rows.items()} == {
        f"csi-{pod}": state for pod, state in states.items()
    } and {row["target"] for row in rows.values() if row["state"] == "mounted"} == views


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
class TestWhileTheServerRuns:
    def test_views_are_mounted_as_fast_as_ever_and_the_table_agrees_afterwards(
        self, driver: Driver, kubelet: Kubelet, failure: Failure
    ) -> None:
        for pod in ("before", "leaving"):
            kubelet.publish(pod)
        with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 3"):
            kubelet.publish("counted", dynakube="missing")
        with failure(driver):
            for number in range(3):
                timed_publish(kubelet, f"during{number}")
            kubelet.unpublish("leaving")
            with refused(grpc.StatusCode.UNAVAILABLE, "attempt 2 of 3"):
                kubelet.publish("counted", dynakube="missing")
        expected = dict.fromkeys(("before", "during0", "during1", "during2"), "mounted") | {"counted": "waiting"}
        if failure is not overwritten:  # Nobody reads the corrupt pages before they are needed.
            eventually(lambda: table_agrees(driver, **expected))
        driver.stop()
        kubelet = driver.start()
        if failure is overwritten:
            expected.pop("counted")
            with contextlib.suppress(sqlite3.Error):
                if "csi-counted" in driver.rows():
                    expected["counted"] = "waiting"
        eventually(lambda: table_agrees(driver, **expected))
        assert not kubelet.target("leaving").exists()
        node.want(driver.data, node.demo(), MISSING)
        for pod in ("before", "during0", "during1", "during2", "counted"):
            kubelet.unpublish(pod)
        assert table_agrees(driver)
        assert os.listdir(driver.data.volumes) == []

    def test_a_server_killed_in_the_middle_of_it_finds_everything_again(
        self, driver: Driver, kubelet: Kubelet, failure: Failure
    ) -> None:
        for pod in ("before", "leaving"):
            kubelet.publish(pod)
        with failure(driver):
            kubelet.publish("during")
            kubelet.unpublish("leaving")
            driver.kill()
        kubelet.forget("leaving")
        kubelet = driver.start()
        eventually(lambda: table_agrees(driver, before="mounted", during="mounted"))
        node.want(driver.data, node.demo())
        for pod in ("before", "during"):
            kubelet.publish(pod)
            kubelet.unpublish(pod)
        assert table_agrees(driver)
        assert os.listdir(driver.data.volumes) == []


@contextlib.contextmanager
def locked_for_readers_too(driver: Driver) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(driver.data.database, isolation_level=None, timeout=5)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def read_only(driver: Driver) -> Iterator[None]:
    file = driver.data.database
    subprocess.run(["mount", "--bind", file, file], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", file], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", file], check=True)


AT_START = [locked, locked_for_readers_too, read_only, full, overwritten, deleted]


@pytest.mark.parametrize("failure", AT_START, ids=lambda failure: failure.__name__)
class TestAtTheStart:
    def test_pods_start_on_what_the_provisioner_last_said(
        self, driver: Driver, kubelet: Kubelet, failure: Failure
    ) -> None:
        kubelet.publish("before")
        with refused(grpc.StatusCode.UNAVAILABLE, "attempt 1 of 3"):
            kubelet.publish("counted", dynakube="missing")
        driver.stop()
        with failure(driver):
            began = time.monotonic()
            kubelet = driver.start()
            assert time.monotonic() - began < 20
            for pod in ("during0", "during1", "before"):
                timed_publish(kubelet, pod)
            with refused(grpc.StatusCode.UNAVAILABLE, "9.9.9 is not in the store"):
                kubelet.publish("other", dynakube="missing")
            kubelet.unpublish("before")
            kubelet.unpublish("other")
        kubelet.forget("before")
        known = {"during0": "mounted", "during1": "mounted"}
        if failure not in {overwritten, deleted}:
            known["counted"] = "waiting"
        eventually(lambda: table_agrees(driver, **known))
        if "counted" in known:
            with refused(grpc.StatusCode.UNAVAILABLE, "attempt 2 of 3"):
                kubelet.publish("counted", dynakube="missing")
        driver.kill()
        driver.start()
        assert table_agrees(driver, **known)


class TestABurst:
    """A node's pods, all at once: the time-out of the database is waited for once, not once for each."""

    def publish_all(self, kubelet: Kubelet) -> float:
        pods = [f"pod{number}" for number in range(60)]
        began = time.monotonic()
        with ThreadPoolExecutor(60) as callers:
            list(callers.map(kubelet.publish, pods))
        return time.monotonic() - began

    @pytest.mark.parametrize("failure", [locked, full])
    def test_is_mounted_although_the_database_can_not_be_written(
        self, driver: Driver, kubelet: Kubelet, failure: Failure
    ) -> None:
        with failure(driver):
            assert self.publish_all(kubelet) < BURST_SECONDS
        assert len(driver.mounts()) == 60
        eventually(lambda: len(driver.rows()) == 60)

    def test_is_mounted_by_a_server_that_could_never_read_it(self, driver: Driver, kubelet: Kubelet) -> None:
        driver.stop()
        with locked_for_readers_too(driver):
            kubelet = driver.start()
            assert self.publish_all(kubelet) < BURST_SECONDS
        eventually(lambda: len(driver.rows()) == 60)


def test_a_dynakube_that_is_known_stays_known_when_the_database_is_lost(driver: Driver, kubelet: Kubelet) -> None:
    kubelet.publish("pod1")
    for file in driver.data.root.glob("metadata.db*"):
        file.unlink()
    timed_publish(kubelet, "pod2")
    eventually(lambda: len(driver.rows()) == 2)
    node.want(driver.data, node.demo(version=Version("")))
    with refused(grpc.StatusCode.UNAVAILABLE, "no version is known yet"):
        kubelet.publish("pod3")
