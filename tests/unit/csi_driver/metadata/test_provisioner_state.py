"""The provisioner's memory and its tables, whatever becomes of the database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRepository
from oneagent.csi_driver.provisioner import startup_cleanup
from oneagent.csi_driver.store import AgentStore
from tests.fakes import provisioner

DEMO = DesiredState(DynaKubeName("demo"), version=Version("1"))


@pytest.fixture
def folder(tmp_path: Path) -> DataDir:
    folder = DataDir(tmp_path / "data")
    folder.create()
    return folder


def records(folder: DataDir, clock: Callable[[], float] = time.monotonic) -> ProvisionerState:
    made = ProvisionerState(database.Database(folder.database, folder.database_lock, clock), folder.dynakubes)
    made.load()
    return made


def lose(folder: DataDir) -> None:
    for file in folder.root.glob("metadata.db*"):
        file.unlink()


class TestADatabaseThatIsLost:
    def test_while_running_is_written_again(self, folder: DataDir) -> None:
        known = records(folder)
        known.set_desired([DEMO])
        known.put_version(Version("1"), VersionState.READY, size_bytes=5)
        lose(folder)
        with known.notices():
            pass
        assert known.flush()
        assert [row["name"] for row in provisioner.table(folder, "dynakubes")] == ["demo"]
        assert [row["size_bytes"] for row in provisioner.table(folder, "versions")] == [5]

    def test_between_two_processes_leaves_what_is_wanted(self, folder: DataDir) -> None:
        records(folder).set_desired([DEMO])
        lose(folder)
        known = records(folder)
        assert known.desired["demo"].version == "1"  # type: ignore[index]
        known.flush()
        assert [row["version"] for row in provisioner.table(folder, "dynakubes")] == ["1"]

    def test_between_two_writes_of_one_flush_is_written_again(self, folder: DataDir) -> None:
        known = records(folder)
        known.set_desired([DEMO])
        original = known._database.transaction
        calls = 0

        def transaction():  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == 2:
                lose(folder)
            return original()

        known._database.transaction = transaction  # type: ignore[method-assign]
        known.put_version(Version("1"), VersionState.READY)
        known.flush()
        assert [row["name"] for row in provisioner.table(folder, "dynakubes")] == ["demo"]

    def test_does_not_bring_the_threads_to_wait_for_each_other(self, folder: DataDir) -> None:
        known = records(folder)
        known.set_desired([DEMO])
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                known.put_version(Version("1"), VersionState.READY)

        def read() -> None:
            while not stop.is_set():
                with contextlib.suppress(database.DatabaseUnavailableError), known.notices():
                    pass

        threads = [threading.Thread(target=each, daemon=True) for each in (write, read)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            lose(folder)
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(("copied_at", "version"), [(2.0, "2"), (1.0, "1"), (0.5, "1")])
def test_of_table_and_copy_the_newer_row_counts_and_the_table_s_of_equal_ones(
    folder: DataDir, copied_at: float, version: str
) -> None:
    known = records(folder)
    known.set_desired([DEMO])
    row = dataclasses.replace(known.desired[DEMO.name], version=Version("1"), changed_at=1.0)
    metadata = database.Database(folder.database, folder.database_lock)
    desired_versions.replace_all(metadata, folder.dynakubes, [row])
    newer = dataclasses.replace(row, version=Version("2"), changed_at=copied_at)
    folder.dynakubes.write_text(json.dumps([dataclasses.asdict(newer)]))
    assert records(folder).desired[DEMO.name].version == version


class TestADatabaseThatCannotBeWritten:
    def test_still_tells_what_the_server_takes_for_wanted(self, folder: DataDir) -> None:
        now = [0.0]
        known = records(folder, lambda: now[0])
        known.set_desired([DEMO])
        writer = database.connect(folder.database)
        writer.execute("BEGIN IMMEDIATE")
        assert not known.set_desired([dataclasses.replace(DEMO, version=Version("2"))])
        writer.execute("ROLLBACK")
        writer.close()
        now[0] += database.UNAVAILABLE_SECONDS
        assert {row.version for row in known.all_desired()} == {"1", "2"}
        assert known.flush()
        assert {row.version for row in known.all_desired()} == {"2"}

    def test_is_logged_once(self, folder: DataDir, caplog: pytest.LogCaptureFixture) -> None:
        known = records(folder)
        known.set_desired([DEMO])
        writer = database.connect(folder.database)
        writer.execute("BEGIN IMMEDIATE")
        for version in ("2", "3", "4"):
            known.set_desired([dataclasses.replace(DEMO, version=Version(version))])
        writer.close()
        assert caplog.text.count("stay in memory") == 1


class TestNotices:
    def test_are_read_once_and_also_by_the_next_process(self, folder: DataDir) -> None:
        book = VolumeRepository(database.Database(folder.database, folder.database_lock))
        known = records(folder)
        for text in ("one", "two"):
            notice = Notice("Warning", "AgentNotMounted", text, "demo", "pod", "default", "uid", time.time())
            book._notices.append(notice)
            book.flush()
        with known.notices() as notices:
            assert [notice.message for notice in notices] == ["one", "two"]
        with known.notices() as notices:
            assert notices == []
        with records(folder).notices() as notices:
            assert notices == []

    def test_of_a_new_database_are_read_from_the_first(self, folder: DataDir) -> None:
        self.test_are_read_once_and_also_by_the_next_process(folder)
        known = records(folder)
        lose(folder)
        book = VolumeRepository(database.Database(folder.database, folder.database_lock))
        book._notices.append(Notice("Warning", "AgentNotMounted", "new", "demo", "pod", "default", "uid", time.time()))
        book.flush()
        with known.notices() as notices:
            assert [notice.message for notice in notices] == ["new"]


class TestWhatACrashLeft:
    def test_is_put_right_by_the_store(self, folder: DataDir) -> None:
        known = records(folder)
        left = {
            "1": VersionState.UNPACKING,
            "2": VersionState.READY,
            "3": VersionState.FAILED,
            "5": VersionState.CORRUPT,
        }
        for version, state in left.items():
            known.put_version(Version(version), state)
        for version in ("1", "4", "5"):
            Path(folder.agent(Version(version))).mkdir()
        startup_cleanup.reconcile(folder, AgentStore(folder), known)
        states = {row["version"]: row["state"] for row in provisioner.table(folder, "versions")}
        assert states == {"1": "ready", "4": "ready", "5": "ready"}


def test_the_message_of_a_failed_install_stays_until_an_attempt_succeeds(folder: DataDir) -> None:
    known, version = records(folder), Version("1")

    def message() -> str:
        return known.versions[version].message

    known.put_version(version, VersionState.DOWNLOADING)
    assert message() == ""
    known.put_version(version, VersionState.FAILED, message="404 Not Found")
    for state in (VersionState.DOWNLOADING, VersionState.UNPACKING, VersionState.DOWNLOADING):
        known.put_version(version, state)
        assert message() == "404 Not Found"
    known.put_installed(version, 5)
    assert message() == ""
    known.put_version(version, VersionState.DOWNLOADING)
    assert message() == ""
