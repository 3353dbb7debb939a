"""The background writer of volumes is woken by everything that leaves a row unwritten."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.volumes import NOTICES_KEPT_SECONDS, Notice, VolumeRecord, VolumeRepository
from tests.unit.csi_driver.metadata.sqlite_file import locked, table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.db"


@pytest.fixture
def metadata(path: Path) -> Iterator[Database]:
    made = Database(path, path.with_suffix(".lock"))
    yield made
    made.close()


@pytest.fixture
def volumes(metadata: Database) -> Iterator[VolumeRepository]:
    """With a running background writer."""
    made = VolumeRepository(metadata)
    metadata.on_new_file = made.rewrite
    made.load()
    made.start()
    yield made
    made.close()


def record(volume: str, state: str = "mounted") -> VolumeRecord:
    return VolumeRecord(VolumeId(volume), "app", "demo", f"/pods/{volume}/mount", state)


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.01)


def test_a_row_for_later_is_written_soon_after_it_is_asked_for(path: Path, volumes: VolumeRepository) -> None:
    volumes.put(record("a"), later=True)
    assert volumes.unwritten == 1
    volumes.write_soon()
    eventually(lambda: table(path) == {"a": "mounted"})


def test_a_row_that_could_not_be_written_is_written_without_another_call(path: Path, volumes: VolumeRepository) -> None:
    volumes.put(record("a"))
    with locked(path):
        volumes.put(record("b"))
        assert volumes.unwritten == 1
    eventually(lambda: table(path) == {"a": "mounted", "b": "mounted"})
    # All is well again: a row is written at once.
    eventually(lambda: not volumes.unwritten)
    volumes.put(record("c"))
    assert table(path).keys() == {"a", "b", "c"}


def test_all_rows_are_written_without_another_call_once_the_file_is_known_to_be_new(
    path: Path, metadata: Database, volumes: VolumeRepository
) -> None:
    volumes.put(record("a"))
    for file in path.parent.glob("metadata.db*"):
        file.unlink()
    with metadata.reading():
        pass  # A read finds the new file.
    eventually(lambda: table(path) == {"a": "mounted"})


def test_a_table_that_was_unreadable_at_the_start_is_read_without_another_call(path: Path, metadata: Database) -> None:
    first = VolumeRepository(metadata)
    first.put(record("a"))
    metadata.close()
    late = Database(path, path.with_suffix(".lock"))
    known = VolumeRepository(late)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        known.load()
        known.start()
        assert known.all() == []
    eventually(lambda: [each.id for each in known.all()] == ["a"])
    known.close()
    late.close()


def test_an_unexpected_error_of_the_writer_is_retried(path: Path, metadata: Database) -> None:
    failures = [ZeroDivisionError()]

    def now() -> float:
        if failures:
            raise failures.pop()
        return 0.0

    known = VolumeRepository(metadata, now)
    known.load()
    known.put(record("a"), later=True)
    known.start()
    known.write_soon()
    eventually(lambda: table(path) == {"a": "mounted"})
    known.close()


def test_closing_writes_what_is_left(path: Path, volumes: VolumeRepository) -> None:
    volumes.put(record("a"), later=True)
    volumes.close()
    assert table(path) == {"a": "mounted"}


def test_notices_are_kept_for_a_day(path: Path, metadata: Database) -> None:
    now = [1_000_000.0]
    known = VolumeRepository(metadata, lambda: now[0])
    known.load()

    def notice(text: str) -> Notice:
        return Notice("Warning", "AgentNotMounted", text, "demo", "pod", "default", "uid", now[0])

    known.put(record("a"), notice("old"))
    now[0] += NOTICES_KEPT_SECONDS
    known.put(record("b"), notice("day"))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert [row[0] for row in connection.execute("SELECT message FROM notices")] == ["old", "day"]
    now[0] += 1
    known.put(record("c"), notice("new"))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert [row[0] for row in connection.execute("SELECT message FROM notices")] == ["day", "new"]
