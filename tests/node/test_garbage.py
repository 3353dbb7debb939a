"""The collector and real mounts: mounted versions stay, whatever metadata is lost."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.provisioner import garbage_collector
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.store import AgentStore
from tests.fakes import node

LIBRARY = "agent/lib64/liboneagentproc.so"


@pytest.fixture
def records(driver: node.Driver) -> Iterator[ProvisionerState]:
    metadata = database.Database(driver.data.database, driver.data.database_lock)
    records = ProvisionerState(metadata, driver.data.dynakubes)
    records.load()
    yield records
    metadata.close()


@pytest.fixture
def collector(driver: node.Driver, records: ProvisionerState) -> garbage_collector.GarbageCollector:
    return garbage_collector.GarbageCollector(
        driver.data, AgentStore(driver.data), records,
        garbage_collector.RetentionPolicy(reserve_bytes=0),
        ProvisionerMetrics(), installing=set, dynakube_names=set,
    )  # fmt: skip


class TestAMountedView:
    @pytest.mark.parametrize("read_only", [False, True])
    def test_retains_its_version_without_any_row(
        self,
        driver: node.Driver,
        kubelet: node.Kubelet,
        records: ProvisionerState,
        collector: garbage_collector.GarbageCollector,
        read_only: bool,
    ) -> None:
        view = kubelet.publish("pod1", read_only=read_only)
        driver.kill()
        records.set_desired([])
        with records._database.transaction() as connection:
            connection.execute("DELETE FROM volumes")
        assert collector.collect() == []
        assert (view / LIBRARY).read_bytes() == b"library"
        kubelet = driver.start()
        kubelet.unpublish("pod1")
        assert collector.collect() == [node.VERSION]

    def test_retains_its_version_until_the_last_bind_mount(
        self,
        tmp_path: Path,
        driver: node.Driver,
        kubelet: node.Kubelet,
        records: ProvisionerState,
        collector: garbage_collector.GarbageCollector,
    ) -> None:
        view = kubelet.publish("pod1")
        container = tmp_path / "container"
        container.mkdir()
        subprocess.run(["mount", "--bind", view, container], check=True)
        try:
            kubelet.unpublish("pod1")
            records.set_desired([])
            assert collector.collect() == []
            (held,) = driver.data.trash.iterdir()
            assert (held / "upper").exists(), "the upper layer is still mounted, so it is not deleted"
            (container / "agent/log").mkdir()
            assert (container / LIBRARY).read_bytes() == b"library"
        finally:
            subprocess.run(["umount", container], check=True)
        assert collector.collect() == [node.VERSION]
        assert list(driver.data.trash.iterdir()) == []


class TestAVolumesRow:
    def test_retains_its_version_without_a_mount(
        self,
        driver: node.Driver,
        kubelet: node.Kubelet,
        records: ProvisionerState,
        collector: garbage_collector.GarbageCollector,
    ) -> None:
        view = kubelet.publish("pod1")
        wait_for_mounted_row(driver)
        driver.kill()
        subprocess.run(["umount", view], check=True)
        records.set_desired([])
        assert collector.collect() == []
        kubelet = driver.start()
        kubelet.unpublish("pod1")
        assert collector.collect() == [node.VERSION]


class TestARemoval:
    def test_never_happens_between_lookup_and_mount(
        self,
        driver: node.Driver,
        kubelet: node.Kubelet,
        records: ProvisionerState,
        collector: garbage_collector.GarbageCollector,
    ) -> None:
        """Add and remove versions during publishes: each published view shows a complete agent."""
        deadline = time.monotonic() + 3
        removed = 0
        for number in itertools.count():
            if time.monotonic() > deadline:
                break
            # On a busy machine each view may be mounted before the collection: every other time it is unwanted first.
            if number % 2:
                node.want(driver.data, node.demo(version=Version("")))
            calls = {pod: kubelet.begin(pod) for pod in ("a", "b", "c")}
            node.want(driver.data, node.demo(version=Version("")))
            records._desired = {}
            removed += len(collector.collect())
            if not AgentStore(driver.data).has(node.VERSION):
                node.install(driver.data)
            node.want(driver.data, node.demo())
            for pod, call in calls.items():
                if call.exception() is None:
                    assert (kubelet.target(pod) / LIBRARY).read_bytes() == b"library"
                kubelet.unpublish(pod)
        assert removed > 0

    def test_of_a_view_leaves_no_upper_and_keeps_the_log(
        self, driver: node.Driver, kubelet: node.Kubelet, collector: garbage_collector.GarbageCollector
    ) -> None:
        view = kubelet.publish("pod1")
        (view / "agent/log.txt").write_text("x")
        kubelet.unpublish("pod1")
        assert list(driver.data.trash.iterdir())
        collector.collect()
        assert list(driver.data.trash.iterdir()) == []
        assert not Path(driver.data.volume(VolumeId("csi-pod1")).root).exists()
        assert not mount_table.at_or_below(mount_table.read(), str(driver.data.root))


def wait_for_mounted_row(driver: node.Driver) -> None:
    """Wait for the server's row, which it writes after the mount."""
    deadline = time.monotonic() + 20
    while driver.rows().get("csi-pod1", {}).get("state") != "mounted":
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestTheUpperLayerOfAPodThatOutlivesAReboot:
    def test_is_deleted_while_the_pod_runs_on_with_a_new_one(
        self, driver: node.Driver, kubelet: node.Kubelet, collector: garbage_collector.GarbageCollector
    ) -> None:
        view = kubelet.publish("pod1")
        (view / "agent/log.txt").write_text("x")
        wait_for_mounted_row(driver)
        driver.kill()
        subprocess.run(["umount", view], check=True)
        kubelet = driver.start()
        kubelet.publish("pod1")
        (before,) = driver.data.trash.iterdir()
        collector.collect()
        assert not before.exists()
        assert (view / LIBRARY).read_bytes() == b"library"
        (view / "agent/log.txt").write_text("y")
