"""A node's life in any order: publishes, versions that come and go, restarts, reboots, failures.

In one process, so that thousands of steps fit into a test: the publisher, its volumes, the reconciler and the garbage
collection are the real ones, on a real disk with real mounts; only gRPC is left out. A crash is a driver that is
dropped with what it has not written yet, a reboot takes its mounts as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY, WRITABLE_DIRECTORIES
from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.linux import mount_table, syscalls
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.desired_versions import DesiredStateReader
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.provisioner import garbage_collector
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.server import overlay
from oneagent.csi_driver.server.attribute_validation import Mode
from oneagent.csi_driver.server.errors import AlreadyExistsError, AttemptFailedError, InternalError
from oneagent.csi_driver.server.publish import Publisher, PublishSettings
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.server.startup_reconcile import Reconciler
from oneagent.csi_driver.server.unpublish import Unpublisher
from oneagent.csi_driver.store import AgentStore, store_key
from tests.fakes import node
from tests.node import invariants

VERSIONS: Final = [
    store_key.of_version(Version("1.0"), "tests"),
    store_key.of_version(Version("2.0"), "tests"),
    store_key.of_image("sha256:" + "3" * 64),
]
DYNAKUBES: Final = [DynaKubeName("one"), DynaKubeName("two")]
PODS: Final = ["a", "b", "c", "d"]
LIMIT: Final = 2


class UnreliableDatabase(database.Database):
    """A database that can be made unavailable."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise database.DatabaseUnavailableError("made unavailable by the test")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self._check()
        with super().transaction() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        self._check()
        with super().reading() as connection:
            yield connection

    def write(self, collect: Callable[[], Sequence[database.Change]]) -> None:
        self._check()
        super().write(collect)


class CallerWithoutTime:
    """A caller that does not wait for a version."""

    def time_remaining(self) -> float:
        return 1.0

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True


@dataclass
class Pod:
    """What the model knows: what was asked for, the version it has (None: no mount), failures (None: unsure)."""

    dynakube: DynaKubeName
    mode: Mode
    read_only: bool
    user_namespace: bool = False
    mounted: bool = False
    version: str = ""
    empty: bool = False
    failures: int | None = 0
    written: bool = True
    """True if the table has the newest row of the volume."""


class Node(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="node-"))
        self.root = self.place / "kubelet"
        self.root.mkdir()
        self.data = DataDir(self.place / "data")
        self.data.create()
        self.store = AgentStore(self.data)
        self.provisioner = database.Database(self.data.database, self.data.database_lock)
        self.records = ProvisionerState(self.provisioner, self.data.dynakubes)
        self.desired = {name: node.demo(name=name, version=VERSIONS[0], mount_attempts=LIMIT) for name in DYNAKUBES}
        node.add_layer(self.data, node.demo().tenant)
        self.records.set_desired(self.desired.values())
        self.pods: dict[str, Pod] = {}
        self.rebooted: set[str] = set()
        self.unknown_hosts: set[str] = set()
        self.gone: set[str] = set()
        """Volumes that are unpublished, which the table did not come to know."""
        self.born = Counter[str]()
        self.boot(away=False)

    def pod_called(self, name: str) -> str:
        """A name of its own for each pod: its volume's id is never used again, as with kubelet."""
        return f"{name}{self.born[name]}"

    def boot(self, *, away: bool) -> None:
        """A new server process on what the last one left."""
        self.database = UnreliableDatabase(self.data.database, self.data.database_lock)
        self.database.away = away
        self.volumes = VolumeRepository(self.database)
        self.database.on_new_file = self.volumes.rewrite
        user_namespace = overlay.in_user_namespace(Path("/proc/self/uid_map").read_text())
        mounts = overlay.OverlayMounter(self.data, self.root, user_namespace=user_namespace)
        desired = DesiredStateReader(self.database, self.data.dynakubes)
        self.publisher = Publisher(PublishSettings("node1"), self.data, self.store, mounts, self.volumes, desired)
        self.unpublisher = Unpublisher(self.publisher, self.data, mounts, self.volumes)
        self.volumes.load()
        self.reconciler = Reconciler(self.data, self.volumes, mounts, self.publisher.calls)
        self.reconciler.reconcile()
        if away:
            for name, pod in self.pods.items():
                pod.failures = 0 if pod.mounted else None
                if pod.mounted and pod.mode == "host":
                    self.unknown_hosts.add(str(self.target(name)))

    # ------------------------------------------------------------------ what kubelet does

    def target(self, pod: str) -> Path:
        return self.root / "pods" / pod / "volumes/kubernetes.io~csi/oneagent-bin/mount"

    def request(self, name: str, pod: Pod) -> PublishRequest:
        return PublishRequest(
            volume=VolumeId(f"csi-{name}"),
            target=TargetPath(str(self.target(name))),
            mode=pod.mode,
            dynakube=pod.dynakube,
            files=PodFiles(Container(pod_name=name, pod_uid=name, namespace="default"), (("app", ""),)),
            read_only=pod.read_only,
            user_namespace=pod.user_namespace,
            mount_flags=syscalls.MS_NOSUID | syscalls.MS_NODEV,
            mount_options=(),
        )

    @rule(
        name=st.sampled_from(PODS),
        dynakube=st.sampled_from(DYNAKUBES),
        mode=st.sampled_from(["app", "app", "app", "conf", "host"]),
        read_only=st.booleans(),
        user_namespace=st.booleans(),
    )
    def publish(self, name: str, dynakube: DynaKubeName, mode: Mode, read_only: bool, user_namespace: bool) -> None:
        name = self.pod_called(name)
        pod = self.pods.setdefault(name, Pod(dynakube, mode, read_only, user_namespace and mode == "app"))
        self.target(name).parent.mkdir(parents=True, exist_ok=True)
        was_mounted = pod.mounted
        try:
            result = self.publisher.publish(self.request(name, pod), CallerWithoutTime()).result
        except AttemptFailedError:
            assert not was_mounted
            assert pod.mode == "app"
            # An earlier directory may stay; a failed call leaves none of its own.
            assert pod.empty or not self.target(name).exists()
            pod.empty = self.target(name).exists()
            if pod.failures is not None:
                pod.failures += 1
                assert pod.failures <= LIMIT
        else:
            assert (result == "already") == was_mounted
            if pod.mode != "host":
                assert (self.target(name) / "agent/conf/container_app.conf").exists()
            if result == "conf":
                assert pod.mode == "conf"
                pod.empty = True
            elif result == "empty":
                assert pod.failures in {LIMIT, None}
                mount_points = WRITABLE_DIRECTORIES if pod.read_only else ()
                expected = ("agent", *(("bin",) if pod.user_namespace else mount_points))
                assert sorted(path.name for path in self.target(name).iterdir()) == sorted(expected)
                pod.empty = True
            else:
                self.mounted(name, pod, result)
        pod.written = pod.written and not self.database.away

    def mounted(self, name: str, pod: Pod, result: str) -> None:
        pod.mounted, pod.empty, pod.failures = True, False, 0
        self.rebooted.discard(f"csi-{name}")
        self.unknown_hosts.discard(str(self.target(name)))
        if pod.mode == "app":
            shown = self.library(name, pod).read_text()
            expected = {pod.version} if pod.version else {self.desired[pod.dynakube].version}
            if pod.version and not (pod.written and self.store.has(Version(pod.version))):
                expected.add(self.desired[pod.dynakube].version)
            assert shown in expected, result
            pod.version = shown

    def library(self, name: str, pod: Pod) -> Path:
        return self.target(name) / ("bin" if pod.user_namespace else "") / PRELOAD_LIBRARY

    @precondition(lambda self: any(pod.mounted for pod in self.pods.values()))
    @rule(data=st.data())
    def publish_with_other_arguments(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, pod in self.pods.items() if pod.mounted]))
        pod = self.pods[name]
        record = self.volumes.get(VolumeId(f"csi-{name}"))
        is_adopted = pod.user_namespace and record is not None and not record.dynakube
        if str(self.target(name)) in self.unknown_hosts or is_adopted:
            return
        with pytest.raises(AlreadyExistsError):
            self.publisher.publish(
                self.request(name, dataclasses.replace(pod, read_only=not pod.read_only)), CallerWithoutTime()
            )

    @rule(name=st.sampled_from(PODS))
    def unpublish(self, name: str) -> None:
        self.unpublish_pod(self.pod_called(name))
        self.born[name] += 1

    def unpublish_pod(self, name: str) -> None:
        self.unpublisher.unpublish(VolumeId(f"csi-{name}"), TargetPath(str(self.target(name))))
        assert not self.target(name).exists()
        self.pods.pop(name, None)
        self.gone.discard(f"csi-{name}")
        self.rebooted.discard(f"csi-{name}")
        self.unknown_hosts.discard(str(self.target(name)))
        with contextlib.suppress(OSError):
            os.removedirs(self.target(name).parent)

    @precondition(lambda self: any(pod.mounted for pod in self.pods.values()))
    @rule(data=st.data())
    def unpublish_while_a_process_uses_it(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, pod in self.pods.items() if pod.mounted]))
        held = next(self.target(name).iterdir(), self.target(name))
        with held.open("rb") if held.is_file() else opened(held), pytest.raises(InternalError):
            self.unpublisher.unpublish(VolumeId(f"csi-{name}"), TargetPath(str(self.target(name))))

    @rule(name=st.sampled_from(PODS))
    def write(self, name: str) -> None:
        """A pod writes into what it has, view or empty folder."""
        name = self.pod_called(name)
        pod = self.pods.get(name)
        is_writable = pod is not None and not pod.read_only and not pod.user_namespace
        if is_writable and pod is not None and self.target(name).is_dir() and pod.mounted:
            (self.target(name) / "written").write_text("x")

    # ------------------------------------------------------------------ what the provisioner does

    @rule(version=st.sampled_from(VERSIONS))
    def install(self, version: Version) -> None:
        if not self.store.has(version):
            shutil.rmtree(self.data.tmp / f"{version}.install", ignore_errors=True)
            node.install(self.data, version, version.encode())

    @rule(
        dynakube=st.sampled_from(DYNAKUBES),
        version=st.sampled_from([*VERSIONS, Version("")]),
        torn=st.sampled_from([0, 0, 1]),
    )
    def want(self, dynakube: DynaKubeName, version: Version, torn: int) -> None:
        """`torn`: with a config layer with which the kernel refuses to mount."""
        layer = node.torn_layer(self.data) if torn else node.LAYER
        node.add_layer(self.data, node.demo().tenant)
        fresh = dataclasses.replace(self.desired[dynakube], version=version, layer=layer)
        self.desired[dynakube] = fresh
        assert self.records.set_desired(self.desired.values())

    @rule()
    def collect_garbage(self) -> None:
        collector = garbage_collector.GarbageCollector(
            self.data,
            self.store,
            self.records,
            garbage_collector.RetentionPolicy(reserve_bytes=0),
            ProvisionerMetrics(),
            installing=lambda: (),
            dynakube_names=lambda: DYNAKUBES,
        )
        collector.collect()
        for row in self.desired.values():
            assert not row.version or row.version not in collector.collect()

    # ------------------------------------------------------------------ what goes wrong

    @rule(away=st.booleans())
    def database_is(self, away: bool) -> None:
        self.database.away = away

    @precondition(lambda self: not self.database.away)
    @rule()
    def everything_is_written(self) -> None:
        assert self.volumes.flush()
        with contextlib.closing(database.connect(self.data.database)) as connection:
            rows = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM volumes")}
        assert rows == {record.id: dataclasses.asdict(record) for record in self.volumes.all()}
        assert self.volumes.unwritten == 0
        for pod in self.pods.values():
            pod.written = True

    @precondition(lambda self: not self.database.away)
    @rule()
    def sweep(self) -> None:
        assert self.volumes.flush()
        self.reconciler.sweep()
        self.gone.clear()

    @rule(away=st.booleans())
    def restart(self, away: bool) -> None:
        """An orderly one."""
        self.volumes.close()
        self.lose_what_is_not_written()
        self.database.close()
        self.boot(away=away)

    @rule(away=st.booleans())
    def crash(self, away: bool) -> None:
        self.lose_what_is_not_written()
        self.database.close()
        self.boot(away=away)

    @rule(away=st.booleans())
    def reboot(self, away: bool) -> None:
        self.lose_what_is_not_written()
        self.database.close()
        for mount in reversed(mount_table.at_or_below(mount_table.read(), str(self.root))):
            subprocess.run(["umount", mount.target], check=True)
        for name, pod in self.pods.items():
            self.rebooted.add(f"csi-{name}") if pod.mounted else None
            # What remains of a mount is the folder that it was at.
            pod.empty, pod.mounted = pod.empty or pod.mounted, False
        self.unknown_hosts.clear()
        self.boot(away=away)

    def lose_what_is_not_written(self) -> None:
        with contextlib.closing(database.connect(self.data.database)) as connection:
            rows = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM volumes")}
        self.gone |= {row for row in rows if self.volumes.get(VolumeId(row)) is None and row[4:] not in self.pods}
        for name, pod in self.pods.items():
            record = self.volumes.get(VolumeId(f"csi-{name}"))
            if record is None or rows.get(record.id) != dataclasses.asdict(record):
                pod.written = False
                if not pod.mounted:
                    pod.failures = None
                elif pod.mode == "host" and record is not None and record.id not in rows:
                    self.unknown_hosts.add(str(self.target(name)))

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def is_sound(self) -> None:
        rows = {str(record.id): dataclasses.asdict(record) for record in self.volumes.all()}
        found = invariants.violations(
            self.data, str(self.root), rows, unmounted=self.rebooted | self.gone, unknown=self.unknown_hosts
        )
        assert found == []

    @invariant()
    def everybody_keeps_what_they_have(self) -> None:
        for name, pod in self.pods.items():
            assert pod.mounted == (self.target(name).exists() and syscalls.is_mount_root(str(self.target(name))))
            if pod.mounted and pod.mode == "app":
                assert self.library(name, pod).read_text() == pod.version

    def teardown(self) -> None:
        try:
            self.database.away = False
            for name in list(self.pods):
                self.unpublish_pod(name)
            self.sweep()
            self.everything_is_written()
            rows = {str(record.id): dataclasses.asdict(record) for record in self.volumes.all()}
            assert invariants.remains(self.data, str(self.root), rows) == []
        finally:
            self.database.close()
            self.provisioner.close()
            for mount in reversed(mount_table.at_or_below(mount_table.read(), str(self.place))):
                subprocess.run(["umount", mount.target], check=False)
            shutil.rmtree(self.place)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[None]:
    """The folder is in use, as by a process that has it open."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(descriptor)


Node.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestNode = Node.TestCase
