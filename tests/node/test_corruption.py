"""A version becomes corrupt below mounted views: they keep and report it; new pods get an intact version."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.store import corruption_log
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import Process, eventually, manifest

VERSION = Version(packages.VERSION)
OFTEN = ("--scrub-interval=100ms", "--scrub-rate=1Gi")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip"))
        yield server


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[node.Driver]:
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    try:
        yield driver
    finally:
        driver.kill()
        node.unmount_all(driver)


def spoil(folder: str) -> None:
    """Change the last byte in place, as a disk would."""
    file = Path(folder, PRELOAD_LIBRARY)
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"\0")


def library(view: Path) -> bytes:
    return (view / PRELOAD_LIBRARY).read_bytes()


@pytest.mark.parametrize("read_only", [False, True])
def test_views_report_whether_they_have_the_corrupt_tree_or_the_new_one(
    tmp_path: Path, driver: node.Driver, server: double.Tenant, read_only: bool
) -> None:
    with provisioner.running(tmp_path, *OFTEN) as process:
        process.set_dynakubes(manifest("demo", server.api_url))
        process.await_ready(VERSION)
        kubelet = driver.start()
        old = kubelet.publish("old", read_only=read_only)
        whole = library(old)
        spoil(driver.data.agent(process.key()))
        eventually(lambda: server.count("package") == 2)
        process.await_ready(VERSION)
        new = kubelet.publish("new", read_only=read_only)
        condition = kubelet.stats("old").volume_condition
        assert condition.abnormal
        assert f"version {VERSION} was corrupted under this view: {PRELOAD_LIBRARY} (content)" in condition.message
        assert not kubelet.stats("new").volume_condition.abnormal
        assert library(new) == whole
        assert library(old) == whole[:-1] + b"\0", "a running pod's files are not exchanged under it"
        # Also after both processes forgot all that they had in memory, and the database.
        driver.kill()
        process.kill()
        for file in driver.data.root.glob("metadata.db*"):
            file.unlink()
        process.start()
        kubelet = driver.start()
        assert kubelet.stats("old").volume_condition.abnormal
        assert not kubelet.stats("new").volume_condition.abnormal
        assert (len(list(old.rglob("*"))), library(old)[:4]) == (len(list(new.rglob("*"))), b"\x7fELF")
        kubelet.unpublish("old")
        eventually(lambda: corruption_log.list_versions(driver.data) == [])
        kubelet.unpublish("new")
        eventually(lambda: not list(driver.data.trash.iterdir()))


def test_a_pod_that_starts_while_the_version_is_away_waits_for_the_new_one(
    tmp_path: Path, driver: node.Driver, server: double.Tenant
) -> None:
    with provisioner.running(tmp_path, *OFTEN) as process:
        process.set_dynakubes(manifest("demo", server.api_url))
        process.await_ready(VERSION)
        kubelet = driver.start()
        whole = library(kubelet.publish("old"))
        server.bytes_per_second = 5_000
        spoil(driver.data.agent(process.key()))
        eventually(lambda: server.count("package") == 2)
        waiting = kubelet.begin("new")
        waiting.result(15)
        assert library(kubelet.target("new")) == whole


@pytest.mark.parametrize("step", ["corruption recorded", "corrupt version in the trash"])
def test_a_removal_of_a_corrupt_version_that_is_killed_is_finished_by_the_next_process(
    tmp_path: Path, driver: node.Driver, server: double.Tenant, step: str
) -> None:
    process = Process(tmp_path, *OFTEN, module="tests.fakes.crashing_provisioner")
    try:
        process.set_dynakubes(manifest("demo", server.api_url))
        process.start(CRASH_AT=step)
        process.await_ready(VERSION)
        kubelet = driver.start()
        old = kubelet.publish("old")
        spoil(driver.data.agent(process.key()))
        assert process.wait_for_exit() == -9
        assert kubelet.stats("old").volume_condition.abnormal
        assert library(old)[:4] == b"\x7fELF"
        process.start(CRASH_AT="never")
        eventually(lambda: server.count("package") == 2)
        process.await_ready(VERSION)
        assert provisioner.list_corrupt(driver.data) == []
        assert kubelet.stats("old").volume_condition.abnormal
        kubelet.publish("new")
        assert not kubelet.stats("new").volume_condition.abnormal
    finally:
        process.kill()


def test_a_view_that_is_bound_elsewhere_keeps_the_corrupt_tree(
    tmp_path: Path, driver: node.Driver, server: double.Tenant
) -> None:
    container = tmp_path / "container"
    container.mkdir()
    with provisioner.running(tmp_path, *OFTEN) as process:
        process.set_dynakubes(manifest("demo", server.api_url))
        process.await_ready(VERSION)
        kubelet = driver.start()
        subprocess.run(["mount", "--bind", kubelet.publish("old"), container], check=True)
        try:
            spoil(driver.data.agent(process.key()))
            eventually(lambda: server.count("package") == 2)
            kubelet.unpublish("old")
            process.await_ready(VERSION)
            assert library(container)[:4] == b"\x7fELF"
        finally:
            subprocess.run(["umount", container], check=True)
        eventually(lambda: not list(driver.data.trash.iterdir()))
        assert not mount_table.at_or_below(mount_table.read(), str(tmp_path))
