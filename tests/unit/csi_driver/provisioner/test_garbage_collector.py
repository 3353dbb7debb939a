"""The collector on real directories."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common.identifiers import StoreKey, TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import disk_usage, mount_table
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import garbage_collector, log_retention, trash
from oneagent.csi_driver.provisioner.garbage_collector import NoSpaceError
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.store import AgentStore
from tests.unit.csi_driver.provisioner.garbage_scene import bind, desired, overlay

ONE, TWO, THREE = Version("1"), Version("2"), Version("3")
MIB = 1 << 20


class Collector:
    """A collector on real directories and a real database, with a fake mount table."""

    def __init__(self, root: Path, **policy: float) -> None:
        self.now, self.elapsed = 1000.0, 0.0
        self.data = DataDir(root)
        self.data.create()
        self.store = AgentStore(self.data)
        self.records = ProvisionerState(
            database.Database(self.data.database, self.data.database_lock, lambda: self.elapsed), self.data.dynakubes
        )
        self.records.load()
        self.mounts: list[Mount] = []
        self.installing: set[Version] = set()
        self.dynakube_names: set[str] | None = set()
        self.steps: list[str] = []
        self.metrics = ProvisionerMetrics()
        self.collector = garbage_collector.GarbageCollector(
            self.data, self.store, self.records,
            garbage_collector.RetentionPolicy(**{"reserve_bytes": 0, **policy}), self.metrics,  # type: ignore[arg-type]
            installing=lambda: set(self.installing), dynakube_names=lambda: self.dynakube_names,
            mounts=self.read_mounts, now=lambda: self.now, failpoint=self.steps.append,
        )  # fmt: skip

    def read_mounts(self) -> list[Mount]:
        return self.mounts

    def install(self, version: str, size: int = 0, last: float = 0.0) -> None:
        tree = self.data.tmp / "tree"
        tree.mkdir()
        (tree / "library").write_bytes(b"x" * size)
        self.data.manifest(Version(version)).write_text("{}")
        self.store.add(StoreKey(Version(version)), tree)
        self.records.put_version(Version(version), VersionState.READY, size_bytes=size, last_used_at=last)

    def layer(self, digest: str) -> Path:
        place = self.data.config_layer(TenantId("t"), LayerId(digest))
        place.mkdir(parents=True)
        return place

    def write(self, statement: str) -> None:
        with sqlite3.connect(self.data.database) as connection:
            connection.execute(statement)
        connection.close()

    def left(self) -> list[str]:
        return [str(version) for version in self.store.versions()]


@pytest.fixture
def env(tmp_path: Path) -> Collector:
    return Collector(tmp_path / "data")


def row(env: Collector, version: str, *, mode: str = "app", layer: str = "") -> None:
    env.write(
        "INSERT INTO volumes VALUES"
        f" ('v{version}','{mode}','demo','t','{version}','{layer}','/t',0,'','','','mounted',0,0,'',0)"
    )


class TestACollectorRun:
    def test_removes_garbage_with_all_its_files(self, env: Collector) -> None:
        env.install("1")
        env.layer("aa")
        (env.data.host_agents / "demo").mkdir()
        (env.data.tmp / "1.zip.part").write_text("x")
        (env.data.manifests / "9.json").write_text("{}")
        assert env.collector.collect() == [ONE]
        data = env.data
        for place in (
            data.agents,
            data.manifests,
            data.config_layers,
            data.host_agents,
            data.tmp,
            data.trash,
        ):
            assert list(place.iterdir()) == [], place
        assert env.records.versions == {}

    @pytest.mark.parametrize(
        "keep",
        [
            lambda env: env.mounts.append(overlay(f"{env.data.agents}/1", upper="/x/upper")),
            lambda env: row(env, "1"),
            lambda env: env.records.set_desired([desired("1")]),
            lambda env: env.installing.add(ONE),
        ],
        ids=["a live view", "a volume's row", "a DynaKube", "an install"],
    )
    def test_retains_versions_in_use(self, env: Collector, keep: Callable[[Collector], object]) -> None:
        env.install("1")
        env.install("2")
        keep(env)
        assert env.collector.collect() == [TWO]
        assert env.left() == ["1"]
        assert env.data.manifest(ONE).exists()

    def test_retains_a_version_that_is_desired_in_the_table(self, env: Collector) -> None:
        env.install("1")
        env.install("3")
        env.records.set_desired([desired("1")])
        writer = database.connect(env.data.database)
        writer.execute("BEGIN IMMEDIATE")
        env.records.set_desired([desired("2")])
        env.elapsed += database.UNAVAILABLE_SECONDS
        assert env.collector.collect() == [THREE]
        writer.close()
        assert env.left() == ["1"]

    def test_keeps_layers_of_views_and_rows(self, env: Collector) -> None:
        for digest in ("aa", "bb", "cc", "dd"):
            env.layer(digest)
        env.mounts = [overlay(f"{env.data.config_layers}/t/aa", f"{env.data.agents}/1")]
        row(env, "1", layer="bb")
        env.records.set_desired([desired("1", "cc")])
        env.collector.collect()
        assert sorted(layer.name for layer in (env.data.config_layers / "t").iterdir()) == ["aa", "bb", "cc"]

    def test_waits_for_the_first_report_of_dynakubes(self, env: Collector) -> None:
        env.install("1")
        env.dynakube_names = None
        assert env.collector.collect() == []
        assert env.left() == ["1"]

    def test_ignores_unknown_files(self, env: Collector) -> None:
        env.install("1")
        (env.data.config_layers / "file").write_text("x")
        (env.data.tmp / "strange").write_text("x")
        assert env.collector.collect() == [ONE]


class TestNothingIsRemovedWhen:
    def unreadable_mounts(self, env: Collector) -> None:
        def fails() -> list[Mount]:
            raise OSError(5, "Input/output error", "/proc/self/mountinfo")

        env.read_mounts = fails  # type: ignore[method-assign]
        env.collector._mounts = fails

    def strange_mounts(self, env: Collector) -> None:
        env.collector._mounts = lambda: mount_table.parse(["half a line"])

    def locked_database(self, env: Collector) -> None:
        env.write("DROP TABLE volumes")

    def no_database(self, env: Collector) -> None:
        env.records._database.close()
        env.data.database.unlink()
        env.data.database.mkdir()

    @pytest.mark.parametrize("broken", ["unreadable_mounts", "strange_mounts", "locked_database", "no_database"])
    def test_references_cannot_be_read(self, env: Collector, broken: str) -> None:
        env.install("1")
        env.layer("aa")
        (env.data.host_agents / "old").mkdir()
        getattr(self, broken)(env)
        assert env.collector.collect() == []
        assert env.left() == ["1"]
        assert (env.data.config_layers / "t/aa").exists()
        assert (env.data.host_agents / "old").exists()
        assert env.metrics.collections.labels("skipped")._value.get() == 1

    def test_a_publish_holds_the_lease_and_logs_expire_all_the_same(self, env: Collector) -> None:
        env.install("1")
        (env.data.logs / "v@1").mkdir()
        env.now = 1e9
        with env.store.lease():
            assert env.collector.collect() == []
        assert env.left() == ["1"]
        assert list(env.data.logs.iterdir()) == []
        assert env.collector.collect() == [ONE]

    def test_the_desired_state_is_being_decided(self, env: Collector) -> None:
        decision_lock = threading.RLock()
        env.collector._decision_lock = decision_lock
        env.install("1")
        with decision_lock:
            collecting = threading.Thread(target=env.collector.collect)
            collecting.start()
            collecting.join(0.2)
            env.records.set_desired([desired("1")])
        collecting.join(20)
        assert env.left() == ["1"]


class TestSpace:
    def test_is_made_by_the_longest_unused_and_no_more_than_needed(self, tmp_path: Path) -> None:
        env = Collector(tmp_path / "data", budget_bytes=10 * MIB, keep_unused_seconds=1e9)
        for version, last in (("1", 30.0), ("2", 10.0), ("3", 20.0)):
            env.install(version, 3 * MIB, last)
        env.collector.make_room(3 * MIB)
        assert env.left() == ["1", "3"]
        env.collector.make_room(3 * MIB)
        assert env.left() == ["1", "3"]

    def test_is_never_made_by_what_is_used(self, tmp_path: Path) -> None:
        env = Collector(tmp_path / "data", budget_bytes=10 * MIB)
        for version in ("1", "2", "3"):
            env.install(version, 3 * MIB)
        env.records.set_desired([desired("1")])
        row(env, "2")
        env.mounts = [overlay(f"{env.data.agents}/3", upper="/x/upper")]
        with pytest.raises(NoSpaceError, match=r"3 MiB are needed and 1 MiB are free \(disk budget 10 MiB"):
            env.collector.make_room(3 * MIB)
        assert env.left() == ["1", "2", "3"]

    def test_is_made_by_versions_of_unknown_size(self, tmp_path: Path) -> None:
        env = Collector(tmp_path / "data", keep_unused_seconds=1e9)
        env.install("1")
        env.records.drop_version(ONE)
        with pytest.raises(NoSpaceError):
            env.collector.make_room(1 << 60)
        assert env.left() == []

    def test_is_made_version_by_version_on_a_disk_that_is_full_by_another_limit(self, tmp_path: Path) -> None:
        env = Collector(tmp_path / "data", keep_unused_seconds=1e9)
        for version, last in (("1", 30.0), ("2", 10.0), ("3", 20.0)):
            env.install(version, 1, last)
        env.records.set_desired([desired("3")])
        assert env.collector.evict()
        assert env.left() == ["1", "3"]
        assert env.collector.evict()
        assert env.left() == ["3"]
        assert not env.collector.evict()
        assert list(env.data.trash.iterdir()) == []

    def test_that_suffices_removes_nothing(self, env: Collector) -> None:
        env.install("1")
        env.collector.make_room(1)
        assert env.left() == ["1"]

    def test_over_budget_the_unused_go_at_the_next_collection(self, tmp_path: Path) -> None:
        env = Collector(tmp_path / "data", budget_bytes=7 * MIB, keep_unused_seconds=1e9)
        for version, last in (("1", 10.0), ("2", 20.0), ("3", 30.0)):
            env.install(version, 3 * MIB, last)
        env.records.set_desired([desired("1")])
        assert env.collector.collect() == [TWO]


class TestKeptLogs:
    def keep(self, data: DataDir, at: float, size: int = 0, suffix: str = "") -> None:
        place = data.logs / f"v@{at:.0f}{suffix}"
        place.mkdir()
        (place / "log").write_bytes(b"x" * size)

    def test_go_by_age(self, env: Collector) -> None:
        for at in (100, 200, 300):
            self.keep(env.data, at)
        self.keep(env.data, 100, suffix=".1")
        log_retention.expire(env.data, 150, 0, 349)
        assert sorted(path.name for path in env.data.logs.iterdir()) == ["v@200", "v@300"]

    def test_go_by_size_the_oldest_first(self, env: Collector) -> None:
        for at in (300, 100, 200):
            self.keep(env.data, at, size=MIB)
        left = log_retention.expire(env.data, 1e9, int(2.5 * MIB), 1000)
        assert sorted(path.name for path in env.data.logs.iterdir()) == ["v@200", "v@300"]
        assert 2 * MIB <= left <= 2.5 * MIB

    def test_of_an_unknown_name_go_first(self, env: Collector) -> None:
        (env.data.logs / "strange").mkdir()
        self.keep(env.data, 500)
        log_retention.expire(env.data, 600, 0, 1000)
        assert [path.name for path in env.data.logs.iterdir()] == ["v@500"]


class TestTheTrash:
    def throw(self, data: DataDir, name: str) -> Path:
        place = data.root / name
        place.mkdir()
        (place / "file").write_text("x")
        data.discard(place)
        (found,) = data.trash.glob(f"{name}.*")
        return found

    @pytest.mark.parametrize(
        ("name", "mount"),
        [
            ("v", lambda entry: overlay("/data/agents/1", upper="/data/volumes/v/upper")),
            ("v", lambda entry: overlay("/data/volumes/v/upper", "/data/agents/1")),
            ("1", lambda entry: overlay("/data/agents/1", upper="/data/volumes/v/upper")),
            ("aa", lambda entry: overlay("/data/config-layers/t/aa", "/data/agents/1", upper="/data/volumes/v/upper")),
            ("demo", lambda entry: bind(f"/some/fs/trash/{entry.name}")),
            ("demo", lambda entry: bind(f"/trash/{entry.name}/sub")),
            ("v", lambda entry: bind("/", target=f"{entry}/mnt")),
            ("v", lambda entry: bind("/", target=str(entry))),
        ],
        ids=["upper", "read-only upper", "version", "layer", "source", "below a source", "below", "target"],
    )
    def test_retains_entries_that_a_mount_uses(self, env: Collector, name: str, mount: Callable[[Path], Mount]) -> None:
        entry, other = self.throw(env.data, name), self.throw(env.data, "other")
        env.mounts = [mount(entry)]
        env.collector.empty_trash()
        assert entry.exists()
        assert not other.exists()
        env.mounts = []
        env.collector.empty_trash()
        assert list(env.data.trash.iterdir()) == []

    def test_stays_when_the_mount_table_cannot_be_read(self, env: Collector) -> None:
        entry = self.throw(env.data, "v")
        env.collector._trash._mounts = lambda: mount_table.parse(["half a line"])
        env.collector.collect()
        assert entry.exists()

    def test_follows_no_link_out(self, env: Collector, tmp_path: Path) -> None:
        outside = tmp_path / "precious"
        outside.mkdir()
        (outside / "file").write_text("x")
        entry = self.throw(env.data, "v")
        (entry / "folder").symlink_to(outside)
        (entry / "file2").symlink_to(outside / "file")
        (env.data.trash / "link.1").symlink_to(outside)
        env.collector.empty_trash()
        assert (outside / "file").exists()
        assert list(env.data.trash.iterdir()) == []

    def test_is_deleted_however_deep_a_pod_has_made_it(self, env: Collector) -> None:
        entry = self.throw(env.data, "v")
        (entry / "2").mkdir()
        (entry / "1_").mkdir()
        where = os.open(entry, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("deeper", dir_fd=where)
            below = os.open("deeper", os.O_RDONLY, dir_fd=where)
            os.close(where)
            where = below
        os.close(where)
        assert disk_usage.total_bytes(entry) > 0
        trash.Trash(env.data, list, lambda _failpoint: None).empty()
        assert list(env.data.trash.iterdir()) == []

    def test_deletes_the_rest_when_an_entry_cannot_be_deleted(self, env: Collector) -> None:
        entries = [self.throw(env.data, name) for name in ("a", "b", "c")]
        stubborn = next(env.data.trash.iterdir())

        def failpoint(_name: str) -> None:
            if not (stubborn / "file").exists() and stubborn.exists() and not (stubborn / "new").exists():
                (stubborn / "new").write_text("written meanwhile")

        emptying = trash.Trash(env.data, list, failpoint)
        emptying.empty()
        assert [entry for entry in entries if entry.exists()] == [stubborn]

    def test_lets_go_of_an_upper_layer_whose_volume_has_a_new_one(self, env: Collector) -> None:
        entry = self.throw(env.data, "v")
        upper = f"{env.data.volumes}/v/upper"
        env.mounts = [overlay("/data/agents/1", upper=upper)]
        Path(upper).mkdir(parents=True)
        env.collector.collect()
        assert not entry.exists()
        assert env.metrics.trash_bytes._value.get() == 0

    def test_retains_an_upper_layer_of_which_a_part_is_mounted_though_its_volume_has_a_new_one(
        self, env: Collector
    ) -> None:
        entry = self.throw(env.data, "v")
        upper = f"{env.data.volumes}/v/upper"
        Path(upper).mkdir(parents=True)
        new = dataclasses.replace(overlay("/data/agents/1", upper=upper), device="0:51")
        env.mounts = [new, dataclasses.replace(new, root="/agent", device="0:50")]
        env.collector.collect()
        assert entry.exists()
        assert env.metrics.trash_bytes._value.get() > 0
        env.mounts = [new, dataclasses.replace(new, root="/agent")]
        env.collector.collect()
        assert not entry.exists()
