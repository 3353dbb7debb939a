"""The database and the memory in front of it: what is said is written sooner or later, whatever happens to the file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.metadata.database import Database, DatabaseUnavailableError
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord, VolumeRepository
from tests.unit.csi_driver.metadata.sqlite_file import locked, table

DEMO = DesiredState(DynaKubeName("demo"), version=Version("1.0"))
OTHER = DesiredState(DynaKubeName("other"), version=Version("2.0"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.db"


@pytest.fixture
def now() -> list[float]:
    """The time by which a database is unavailable for a moment, if a test sets it; otherwise the real one."""
    return []


@pytest.fixture
def metadata(path: Path, now: list[float]) -> Iterator[Database]:
    metadata = Database(path, path.with_suffix(".lock"), lambda: now[-1] if now else time.monotonic())
    yield metadata
    metadata.close()


@pytest.fixture
def book(metadata: Database) -> VolumeRepository:
    book = VolumeRepository(metadata)
    metadata.on_new_file = book.rewrite
    book.load()
    return book


@contextlib.contextmanager
def waits_of(metadata: Database) -> Iterator[list[float]]:
    """The transactions meanwhile that reach the file, in seconds; others fail at once."""
    waits: list[float] = []
    metadata.on_busy = waits.append
    yield waits


def opened(path: Path) -> Database:
    return Database(path, path.with_suffix(".lock"))


def record(volume: str, state: str = "mounted", **fields: object) -> VolumeRecord:
    known = VolumeRecord(VolumeId(volume), "app", "demo", f"/pods/{volume}/mount", state, version="1.0")
    return dataclasses.replace(known, **fields)  # type: ignore[arg-type]


def recover(book: VolumeRepository) -> None:
    """What the background thread does, without waiting for it."""
    deadline = time.monotonic() + 20
    while not book.flush():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestTheBook:
    def test_writes_at_once_what_it_is_told(self, path: Path, book: VolumeRepository) -> None:
        book.put(record("a"))
        book.put(record("b"))
        book.drop(VolumeId("a"))
        assert table(path) == {"b": "mounted"}
        assert book.unwritten == 0

    def test_counts_the_time_of_a_write_once(self, metadata: Database, book: VolumeRepository) -> None:
        with waits_of(metadata) as waits:
            book.put(record("a"), later=True)
            book.put(record("b"), later=True)
            assert book.flush()
        assert len(waits) == 1

    def test_writes_a_moment_later_what_may_wait(self, path: Path, book: VolumeRepository) -> None:
        book.put(record("a"), later=True)
        assert book.get(VolumeId("a")) is not None
        assert table(path) == {}
        book.start()
        book.write_soon()
        deadline = time.monotonic() + 20
        while table(path) != {"a": "mounted"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        book.close()

    def test_keeps_what_a_locked_database_refuses_and_writes_it_in_the_end(
        self, path: Path, metadata: Database, book: VolumeRepository, now: list[float]
    ) -> None:
        book.put(record("before"))
        now.append(0.0)
        with locked(path), waits_of(metadata) as waits:
            for number in range(20):
                book.put(record(f"during{number}"))
            book.drop(VolumeId("before"))
            assert len(waits) == 1, "only the first one waits"
            assert book.unwritten == 21
        now.append(now[-1] + database.UNAVAILABLE_SECONDS)
        recover(book)
        assert table(path) == {f"during{number}": "mounted" for number in range(20)}
        assert book.unwritten == 0

    def test_writes_at_once_again_after_an_outage(self, path: Path, book: VolumeRepository) -> None:
        with locked(path):
            book.put(record("during"))
        recover(book)
        book.put(record("after"))
        assert table(path) == {"during": "mounted", "after": "mounted"}, "without the background thread"
        book.drop(VolumeId("during"))
        assert table(path) == {"after": "mounted"}

    def test_fills_a_replaced_file_again_when_a_read_notices_it(
        self, path: Path, metadata: Database, book: VolumeRepository
    ) -> None:
        book.put(record("a"))
        book.put(record("b", "waiting"))
        book.start()
        for file in path.parent.glob("metadata.db*"):
            file.unlink()
        DesiredStateReader(metadata, path.with_name("dynakubes.json")).refresh()
        deadline = time.monotonic() + 20
        while table(path) != {"a": "mounted", "b": "waiting"}:
            assert time.monotonic() < deadline, "nothing but the read comes to the file"
            time.sleep(0.01)
        book.close()

    def test_loses_nothing_by_an_error_that_nobody_expected_and_writes_on(
        self, path: Path, metadata: Database, book: VolumeRepository
    ) -> None:
        def fail(_seconds: float) -> None:
            metadata.on_busy = lambda _seconds: None
            raise ValueError("unexpected")

        book.start()
        metadata.on_busy = fail
        book.put(record("a"), later=True)
        book.write_soon()
        deadline = time.monotonic() + 20
        while table(path) != {"a": "mounted"} or book.unwritten:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        book.put(record("b"), later=True)
        book.write_soon()
        while table(path) != {"a": "mounted", "b": "mounted"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        book.close()

    def test_makes_one_of_many_callers_wait_and_not_each(
        self, path: Path, metadata: Database, book: VolumeRepository, now: list[float]
    ) -> None:
        now.append(0.0)
        with locked(path), waits_of(metadata) as waits, ThreadPoolExecutor(50) as callers:
            list(callers.map(book.put, [record(str(number)) for number in range(50)]))
        assert len(waits) == 1
        now.append(now[-1] + database.UNAVAILABLE_SECONDS)
        recover(book)
        assert len(table(path)) == 50

    def test_writes_again_what_a_failed_commit_has_lost(
        self, path: Path, metadata: Database, book: VolumeRepository
    ) -> None:
        """A full disk shows at the commit, not at the statements."""
        book.put(record("a"))
        with metadata.reading() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages}")
        long = "x" * 100_000
        book.put(record("b", reason=long), later=True)
        book.put(record("c", reason=long), later=True)
        assert not book.flush()
        assert book.unwritten == 2
        with contextlib.suppress(DatabaseUnavailableError), metadata.reading() as connection:
            connection.execute("PRAGMA max_page_count=1000000")
        metadata.close()
        recover(book)
        assert table(path) == {"a": "mounted", "b": "mounted", "c": "mounted"}

    def test_keeps_notices_through_a_failure_in_their_order(self, path: Path, book: VolumeRepository) -> None:
        def notice(message: str) -> Notice:
            return Notice("Warning", "AgentNotMounted", message, "demo", "pod", "default", "1", time.time())

        with locked(path):
            book.put(record("a", "empty"), notice("first"))
            book.put(record("b", "empty"), notice("second"))
        recover(book)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            written = connection.execute("SELECT message FROM notices ORDER BY id").fetchall()
        assert written == [("first",), ("second",)]

    @pytest.mark.parametrize(
        "suffixes", [("",), ("", "-wal"), ("", "-wal", "-shm"), ("-wal", "-shm"), ("-wal",), ("-shm",)]
    )
    def test_writes_everything_again_into_a_new_file(
        self, path: Path, book: VolumeRepository, suffixes: tuple[str, ...]
    ) -> None:
        for name in ("a", "b"):
            book.put(record(name))
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()
        book.put(record("c"))
        assert table(path) == {"a": "mounted", "b": "mounted", "c": "mounted"}

    def test_drops_the_rows_of_a_file_that_is_not_its_own(self, path: Path, book: VolumeRepository) -> None:
        other = path.with_name("other.db")
        stranger = opened(other)
        strangers_book = VolumeRepository(stranger)
        strangers_book.load()
        strangers_book.put(record("stranger"))
        stranger.close()
        book.put(record("a"))
        other.rename(path)
        book.put(record("b"))
        assert table(path) == {"a": "mounted", "b": "mounted"}

    def test_puts_a_corrupt_file_aside_and_writes_a_new_one(
        self, path: Path, metadata: Database, book: VolumeRepository
    ) -> None:
        for number in range(50):
            book.put(record(f"v{number}"))
        metadata.close()
        path.write_bytes(os.urandom(64 << 10))
        book.put(record("later"))
        recover(book)
        assert len(table(path)) == 51
        assert len(list(path.parent.glob("metadata.db.aside-*"))) == 1

    def test_that_could_not_read_at_the_start_does_so_when_it_can(self, path: Path, metadata: Database) -> None:
        first = VolumeRepository(metadata)
        first.load()
        for name in ("kept", "changed", "dropped"):
            first.put(record(name, attempts=2))
        metadata.close()
        late = opened(path)
        book = VolumeRepository(late)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            book.load()
            assert book.all() == []
            book.put(record("changed", "empty"))
            book.drop(VolumeId("dropped"))
            book.put(record("new"))
        recover(book)
        assert table(path) == {"kept": "mounted", "changed": "empty", "new": "mounted"}
        assert {known.id: known.state for known in book.all()} == table(path)
        kept = book.get(VolumeId("kept"))
        assert kept is not None
        assert kept.attempts == 2
        late.close()

    def test_learns_the_pod_of_a_mount_that_it_found(self, path: Path, metadata: Database) -> None:
        first = VolumeRepository(metadata)
        first.load()
        first.put(record("a", pod_name="shop"))
        metadata.close()
        late = opened(path)
        book = VolumeRepository(late)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            book.load()
            book.put(record("a", dynakube="", reason="found in the mount table"))
        recover(book)
        found = book.get(VolumeId("a"))
        assert found is not None
        assert (found.dynakube, found.pod_name, found.reason) == ("demo", "shop", "")
        late.close()


class TestWhatIsWanted:
    @pytest.fixture
    def copy(self, path: Path) -> Path:
        return path.with_name("dynakubes.json")

    @pytest.fixture
    def provisioner(self, path: Path) -> Iterator[Database]:
        provisioner = opened(path)
        yield provisioner
        provisioner.close()

    @pytest.fixture
    def reader(self, metadata: Database, copy: Path) -> DesiredStateReader:
        return DesiredStateReader(metadata, copy)

    def test_is_seen_as_soon_as_it_is_written(
        self, provisioner: Database, reader: DesiredStateReader, copy: Path
    ) -> None:
        assert reader.get(DEMO.name) is None
        desired_versions.replace_all(provisioner, copy, [DEMO])
        assert reader.refresh()
        assert not reader.refresh()
        assert reader.get(DEMO.name) == DEMO
        desired_versions.replace_all(provisioner, copy, [OTHER])
        assert reader.get(DEMO.name) is None
        assert reader.get(OTHER.name) == OTHER
        desired_versions.replace_all(provisioner, copy, [])
        assert reader.get(OTHER.name) is None

    def test_comes_from_the_copy_while_the_database_can_not_be_read(
        self, path: Path, provisioner: Database, copy: Path
    ) -> None:
        desired_versions.replace_all(provisioner, copy, [DEMO])
        provisioner.close()
        late = opened(path)
        reader = DesiredStateReader(late, copy)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            assert reader.get(DEMO.name) == DEMO
            # The copy is written before the table.
            with pytest.raises(DatabaseUnavailableError):
                desired_versions.replace_all(provisioner, copy, [DEMO, OTHER])
            assert reader.get(OTHER.name) == OTHER
        late.close()

    def test_comes_from_the_copy_while_the_database_is_a_new_one(
        self, path: Path, provisioner: Database, reader: DesiredStateReader, copy: Path
    ) -> None:
        desired_versions.replace_all(provisioner, copy, [DEMO])
        assert reader.get(DEMO.name) == DEMO
        path.unlink()
        assert reader.get(DEMO.name) == DEMO

    def test_stays_known_when_table_and_copy_are_lost(self, path: Path, reader: DesiredStateReader, copy: Path) -> None:
        provisioner = opened(path)
        desired_versions.replace_all(provisioner, copy, [DEMO])
        provisioner.close()
        assert reader.get(DEMO.name) == DEMO
        copy.write_text("{")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert reader.get(DEMO.name) == DEMO

    @pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "demo", "of a newer release": 1}]', "null", "\0"])
    def test_of_a_copy_that_can_not_be_read_is_nothing(self, copy: Path, text: str) -> None:
        copy.write_text(text)
        assert desired_versions.read_copy(copy) == {}


class TestTheFile:
    def test_is_never_seen_half_made(self, path: Path) -> None:
        def use(_number: int) -> int:
            metadata = opened(path)
            with metadata.reading() as connection:
                found = connection.execute("SELECT count(*) FROM volumes").fetchone()[0]
            metadata.close()
            return int(found)

        with ThreadPoolExecutor(8) as processes:
            assert set(processes.map(use, range(8))) == {0}
        assert not list(path.parent.glob("*.aside-*"))

    @pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"garbage" * 1000, bytes(8192)])
    def test_with_anything_in_it_is_usable_in_the_end(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        metadata = opened(path)
        deadline = time.monotonic() + 20
        while True:
            try:
                with metadata.transaction() as connection:
                    connection.execute("DELETE FROM volumes")
                break
            except DatabaseUnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        metadata.close()

    def test_of_somebody_else_is_put_aside(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE theirs (x)")
        metadata = opened(path)
        with metadata.reading() as connection:
            assert connection.execute("SELECT count(*) FROM volumes").fetchone()[0] == 0
        metadata.close()
        assert len(list(path.parent.glob("metadata.db.aside-*"))) == 1

    def test_in_a_folder_that_is_gone_is_unavailable_and_nothing_worse(self, path: Path) -> None:
        metadata = Database(path / "nowhere/metadata.db", path / "nowhere/metadata.lock")
        with pytest.raises(DatabaseUnavailableError), metadata.reading():
            pass

    def test_a_transaction_that_fails_leaves_nothing(
        self, path: Path, metadata: Database, book: VolumeRepository
    ) -> None:
        book.put(record("a"))
        with pytest.raises(RuntimeError), metadata.transaction() as connection:
            connection.execute("DELETE FROM volumes")
            raise RuntimeError
        assert table(path) == {"a": "mounted"}


def test_the_busy_time_out_leaves_room_below_a_second() -> None:
    assert database.BUSY_MILLISECONDS <= 250
