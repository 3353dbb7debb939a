"""`oneagent-csi status` tells what is known about a node, changes nothing, and finds what needs a person."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.common import node_report
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.terminal import Screen
from oneagent.csi_driver.cli import main
from oneagent.csi_driver.cli.status import collect, problems, tables
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState, VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository

VERSION = Version("1.277.0.20230914-094321")
NEXT = Version("1.279.0.20231001-000000")


class Node:
    """A data folder as server and provisioner leave it, and a mount table."""

    def __init__(self, place: Path) -> None:
        self.data = DataDir(place / "data")
        self.data.create()
        self.mount_table = place / "mountinfo"
        self.mount_table.write_text("")
        self.targets = place / "pods"
        self._locks = contextlib.ExitStack()

    def run_processes(self, *names: str) -> None:
        for name in names:
            lock = self._locks.enter_context((self.data.root / f"{name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)

    def end_processes(self) -> None:
        self._locks.close()

    def install(self, version: Version = VERSION) -> Path:
        library = Path(self.data.agent(version)) / PRELOAD_LIBRARY
        library.parent.mkdir(parents=True)
        library.write_bytes(b"library")
        with self.records() as records:
            records.put_version(version, VersionState.READY, size_bytes=7, last_used_at=time.time())
        return library

    def want(self, version: Version = VERSION, **fields: Any) -> None:
        row = desired_versions.DesiredState(DynaKubeName("demo"), TenantId("abc12345"), version, **fields)
        with self.records() as records:
            records.set_desired([row])

    @contextlib.contextmanager
    def records(self) -> Iterator[ProvisionerState]:
        metadata = database.Database(self.data.database, self.data.database_lock)
        records = ProvisionerState(metadata, self.data.dynakubes)
        records.load()
        yield records
        records.flush()
        metadata.close()

    def volume(self, pod: str = "shop", state: str = VolumeState.MOUNTED, **fields: Any) -> VolumeRecord:
        defaults: dict[str, Any] = {
            "id": VolumeId(f"csi-{pod}"),
            "mode": "app",
            "dynakube": "demo",
            "target": f"{self.targets}/{pod}",
            "state": state,
            "version": VERSION,
            "pod_name": pod,
            "pod_namespace": "default",
            "changed_at": time.time(),
        }
        metadata = database.Database(self.data.database, self.data.database_lock)
        record = VolumeRepository(metadata).put(VolumeRecord(**(defaults | fields)))
        metadata.close()
        return record

    def mount(self, pod: str = "shop", root: str = "/") -> None:
        layers = f"lowerdir={self.data.agent(VERSION)},upperdir={self.data.volume(VolumeId(f'csi-{pod}')).upper}"
        with self.mount_table.open("a") as table:
            table.write(f"99 1 0:99 {root} {self.targets}/{pod} rw,nosuid - overlay overlay rw,{layers},workdir=w\n")

    def status(self) -> node_report.NodeStatus:
        return problems.add_problems(collect.collect_status(self.data, self.mount_table, now=time.time()))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.end_processes()


@pytest.fixture
def healthy(node: Node) -> Node:
    """A node with one view of the wanted version."""
    node.install()
    node.want()
    node.volume()
    node.mount()
    node.run_processes("server", "provisioner")
    return node


Asked = Callable[..., int]


@pytest.fixture
def asked(node: Node, monkeypatch: pytest.MonkeyPatch) -> Asked:
    def ask(*words: str) -> int:
        flags = [f"--data-dir={node.data.root}", f"--mount-table={node.mount_table}"]
        monkeypatch.setattr("sys.argv", ["oneagent-csi", "status", *flags, *words])
        return main.main()

    return ask


class TestAHealthyNode:
    def test_has_nothing_that_needs_a_person(self, healthy: Node) -> None:
        assert healthy.status().problems == ()

    def test_tells_of_its_versions(self, healthy: Node) -> None:
        (version,) = healthy.status().versions
        assert (version.version, version.state, version.views) == (VERSION, "ready", 1)
        assert (version.size_bytes, version.wanted_by) == (7, ("demo",))
        assert version.last_used_at

    def test_tells_of_its_volumes(self, healthy: Node) -> None:
        (volume,) = healthy.status().volumes
        assert (volume.namespace, volume.pod, volume.dynakube) == ("default", "shop", "demo")
        assert (volume.version, volume.state, volume.mounted) == (VERSION, "mounted", True)
        assert volume.since

    def test_tells_of_its_dynakubes_and_its_disk(self, healthy: Node) -> None:
        found = healthy.status()
        (kube,) = found.dynakubes
        assert (kube.name, kube.tenant, kube.version, kube.in_store) == ("demo", "abc12345", VERSION, True)
        assert found.disk is not None
        assert found.disk.store_bytes > 0
        assert 0 < found.disk.free_bytes <= found.disk.total_bytes

    def test_counts_a_view_once_even_if_a_part_of_it_is_mounted_again(self, healthy: Node) -> None:
        healthy.mount(root="/agent/log")
        assert healthy.status().versions[0].views == 1

    def test_believes_the_mount_table_where_the_row_is_not_written_yet(self, healthy: Node) -> None:
        healthy.volume(state=VolumeState.WAITING, attempts=1, reason="not in the store yet")
        found = healthy.status()
        assert found.volumes[0].state == "mounted"
        assert not found.failures
        assert not found.problems


class TestWhatNeedsAPerson:
    def one(self, node: Node) -> str:
        (problem,) = node.status().problems
        return problem

    def test_a_pod_with_an_empty_view(self, healthy: Node) -> None:
        healthy.volume("cart", VolumeState.EMPTY, attempts=10, reason="10 mount attempts failed")
        assert "default/cart runs without its agent (10 mount attempts failed)" in self.one(healthy)

    def test_a_pod_that_waits_after_a_failed_attempt(self, healthy: Node) -> None:
        healthy.volume("cart", VolumeState.WAITING, attempts=2, first_failed_at=5.0, reason="no version")
        assert "default/cart can't start yet: attempt 2 failed (no version)" in self.one(healthy)
        (failure,) = healthy.status().failures
        assert (failure.attempts, failure.first_failed_at, failure.empty) == (2, 5.0, False)

    def test_a_volume_that_has_lost_its_view(self, healthy: Node) -> None:
        healthy.mount_table.write_text("")
        assert "nothing is mounted at" in self.one(healthy)
        assert healthy.status().volumes[0].mounted is False

    def test_a_version_that_cannot_be_installed(self, healthy: Node) -> None:
        with healthy.records() as records:
            records.put_version(NEXT, VersionState.FAILED, message="no room")
        healthy.want(NEXT, condition=f"version {NEXT} can't be installed: no room")
        assert f"version {NEXT} can't be installed: no room" in self.one(healthy)

    def test_a_corrupt_version(self, healthy: Node) -> None:
        Path(healthy.data.agent(VERSION), PRELOAD_LIBRARY).unlink()
        assert "is corrupt" in self.one(healthy)

    def test_a_dynakube_that_gets_no_version(self, healthy: Node) -> None:
        healthy.want(Version(""), condition="the token is refused")
        later = collect.collect_status(healthy.data, healthy.mount_table, now=time.time() + problems.GRACE_SECONDS)
        assert problems.add_problems(later).problems == (
            "DynaKube demo has no version on this node: the token is refused",
        )

    def test_a_process_that_does_not_run(self, healthy: Node) -> None:
        healthy.end_processes()
        healthy.run_processes("server")
        assert "the provisioner is not running" in self.one(healthy)

    def test_not_a_version_that_is_on_its_way(self, healthy: Node) -> None:
        with healthy.records() as records:
            records.put_version(NEXT, VersionState.DOWNLOADING)
        healthy.want(NEXT, condition=f"version {NEXT} is not in the store yet (downloading)")
        assert healthy.status().problems == ()

    def test_a_version_whose_last_attempt_failed_also_while_it_is_tried_again(self, healthy: Node) -> None:
        with healthy.records() as records:
            records.put_version(NEXT, VersionState.FAILED, message="404 Not Found")
            records.put_version(NEXT, VersionState.DOWNLOADING)
        assert "can't be installed: 404 Not Found; retry: downloading" in self.one(healthy)

    def test_a_version_that_is_not_installed_is_one_problem_with_its_pods_and_the_remedy(self, healthy: Node) -> None:
        message = f"https://h/api/v1/deployment/installer/agent/unix/paas/version/{NEXT}: answered 404: Not Found"
        with healthy.records() as records:
            records.put_version(NEXT, VersionState.FAILED, message=message)
        condition = f"version {NEXT} can't be installed: {message}"
        healthy.want(NEXT, condition=condition)
        for pod in ("cart-0", "cart-1"):
            healthy.volume(pod, VolumeState.WAITING, attempts=2, reason=condition)
        assert self.one(healthy) == (
            f"{condition}; 2 pods wait for it, as pod default/cart-0; set codeModulesVersion of the DynaKube to a "
            "version that the tenant has, or remove it to follow the tenant's latest; the provisioner retries"
        )

    def test_not_a_tenant_that_was_asked_a_moment_ago(self, healthy: Node) -> None:
        healthy.want(Version(""), condition="the tenant is being polled")
        assert healthy.status().problems == ()


class TestWithoutADatabase:
    def test_views_versions_and_dynakubes_are_still_told(self, healthy: Node) -> None:
        healthy.data.database.unlink()
        found = healthy.status()
        assert found.metadata == "missing"
        assert [(volume.id, volume.state, volume.mounted) for volume in found.volumes] == [
            ("csi-shop", "unrecorded", True)
        ]
        assert [(version.version, version.state) for version in found.versions] == [(VERSION, "ready")]
        assert [kube.name for kube in found.dynakubes] == ["demo"]
        assert "no metadata database" in found.problems[0]

    def test_none_is_made(self, healthy: Node) -> None:
        healthy.data.database.unlink()
        before = sorted(os.listdir(healthy.data.root))
        healthy.status()
        assert sorted(os.listdir(healthy.data.root)) == before

    @pytest.mark.parametrize("content", [b"", b"no database at all" * 1000], ids=["empty", "garbage"])
    def test_one_that_cannot_be_read_is_said_to_be_so_and_left_alone(self, healthy: Node, content: bytes) -> None:
        healthy.data.database.write_bytes(content)
        found = healthy.status()
        assert found.metadata == "unreadable"
        assert found.dynakubes
        assert healthy.data.database.read_bytes() == content

    def test_one_of_another_schema_is_said_to_be_so(self, healthy: Node) -> None:
        with database.connect(healthy.data.database) as connection:
            connection.execute("ALTER TABLE volumes RENAME COLUMN attempts TO tries")
            connection.execute("UPDATE alembic_version SET version_num='9999'")
        connection.close()
        assert "its schema is 9999" in healthy.status().problems[0]

    def test_not_even_a_data_folder_is_an_answer(self, tmp_path: Path) -> None:
        found = collect.collect_status(DataDir(tmp_path / "nowhere"), tmp_path / "nothing", now=0.0)
        assert found.disk is None
        assert len(found.unreadable) == 3


class TestReading:
    def test_leaves_no_file_behind(self, healthy: Node) -> None:
        before = sorted(os.listdir(healthy.data.root))
        healthy.status()
        assert sorted(os.listdir(healthy.data.root)) == before

    def test_sees_what_a_running_process_has_just_written(self, healthy: Node) -> None:
        metadata = database.Database(healthy.data.database, healthy.data.database_lock)
        book = VolumeRepository(metadata)
        book.load()
        old = book.get(VolumeId("csi-shop"))
        assert old is not None
        book.drop(old.id)
        assert healthy.status().volumes[0].state == "unrecorded"
        metadata.close()

    def test_does_not_wait_for_a_writer(self, healthy: Node) -> None:
        metadata = database.Database(healthy.data.database, healthy.data.database_lock)
        with metadata.transaction():
            started = time.monotonic()
            assert healthy.status().metadata == "ok"
            assert time.monotonic() - started < 0.5
        metadata.close()


class TestTheCommand:
    def test_ends_with_0_on_a_healthy_node(
        self, healthy: Node, asked: Asked, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert asked() == 0
        assert "Nothing needs attention." in capsys.readouterr().out

    def test_ends_with_1_and_says_what_needs_attention(
        self, healthy: Node, asked: Asked, capsys: pytest.CaptureFixture[str]
    ) -> None:
        healthy.end_processes()
        assert asked() == 1
        assert "the server is not running" in capsys.readouterr().out

    def test_gives_programs_json(self, healthy: Node, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
        assert asked("-o", "json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["format"] == node_report.FORMAT
        assert answer["problems"] == []
        assert answer["running"] == {"server": True, "provisioner": True}
        assert set(answer) >= {
            "versions",
            "volumes",
            "failures",
            "dynakubes",
            "disk",
            "metadata",
            "data_dir",
            "taken_at",
        }
        assert answer["volumes"][0]["pod"] == "shop"

    def test_gives_yaml_with_the_same_fields(
        self, healthy: Node, asked: Asked, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answers = []
        for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
            assert asked("-o", form) == 0
            answers.append(read(capsys.readouterr().out))
            for changing in ("taken_at", "disk"):
                del answers[-1][changing]
        assert answers[0] == answers[1]

    @pytest.mark.parametrize("words", [["--output=xml"], ["--nothing"], ["--data-dir=relative"]])
    def test_ends_with_2_if_it_cannot_be_understood(self, asked: Asked, words: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            asked(*words)
        assert ended.value.code == 2

    def test_says_in_its_help_what_the_exit_codes_mean(self, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            asked("--help")
        assert "problems that an administrator has to solve" in capsys.readouterr().out

    def test_shows_how_much_of_a_download_has_come(self, healthy: Node) -> None:
        with healthy.records() as records:
            records.put_version(NEXT, VersionState.DOWNLOADING)
        (healthy.data.tmp / f"{NEXT}.zip.part").write_bytes(b"x" * (1 << 20))
        row = next(row for row in healthy.status().versions if row.version == NEXT)
        assert row.downloaded_bytes == 1 << 20
        assert "1.0 MiB so far" in "\n".join(tables.lines(healthy.status(), Screen()))

    def test_shows_what_looks_like_markup_as_it_is(self, healthy: Node) -> None:
        healthy.volume("cart", VolumeState.EMPTY, attempts=1, reason="[red]no[/]")
        assert "[red]no[/]" in "\n".join(tables.lines(healthy.status(), Screen()))

    def test_shows_no_control_character_of_others(self, healthy: Node) -> None:
        healthy.volume("cart", VolumeState.EMPTY, attempts=1, reason="a\x1b[2Jb\nforged\x9b\u202e")
        shown = list(tables.lines(healthy.status(), Screen()))
        assert "a?[2Jb?forged??" in "\n".join(shown)
        assert all(line.isprintable() for line in shown)
