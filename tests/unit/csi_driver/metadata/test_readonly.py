"""Commands read the database beside running processes, and leave no trace in its directory."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.metadata import database, desired_versions, readonly
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository

DEMO = DesiredState(DynaKubeName("demo"), version=Version("1.0"))


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    made.create()
    return made


@pytest.fixture
def metadata(data: DataDir) -> Iterator[Database]:
    """With one volume and one DynaKube."""
    made = Database(data.database, data.database_lock)
    VolumeRepository(made).put(VolumeRecord(VolumeId("a"), "app", "demo", "/pods/a/mount", "mounted"))
    desired_versions.replace_all(made, data.dynakubes, [DEMO])
    yield made
    made.close()


def files(data: DataDir) -> set[str]:
    return {path.name for path in data.database.parent.glob("metadata*")}


def test_rows_that_are_only_in_the_log_are_read(data: DataDir, metadata: Database) -> None:
    found = readonly.read(data)
    assert (found.state, [volume.id for volume in found.volumes], found.dynakubes) == ("ok", ["a"], (DEMO,))


def test_without_a_log_nothing_is_created_beside_the_file(data: DataDir, metadata: Database) -> None:
    metadata.close()
    with contextlib.closing(sqlite3.connect(data.database)) as last:
        last.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        last.execute("SELECT 1 FROM volumes").fetchall()
    before = files(data)
    assert "metadata.db-wal" not in before
    assert [volume.id for volume in readonly.read(data).volumes] == ["a"]
    assert files(data) == before


def test_an_empty_log_counts_as_none(data: DataDir, metadata: Database) -> None:
    metadata.close()
    log = data.database.with_name("metadata.db-wal")
    log.touch()
    data.database.with_name("metadata.db-shm").unlink(missing_ok=True)
    assert [volume.id for volume in readonly.read(data).volumes] == ["a"]
    assert "metadata.db-shm" not in files(data)


def test_all_tables_are_of_one_moment(data: DataDir, metadata: Database) -> None:
    """A writer that changes two tables together is never seen between the two."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for version in ("1.0", "2.0"):
                with metadata.transaction() as connection:
                    connection.execute("UPDATE volumes SET version = ?", (version,))
                    connection.execute("UPDATE dynakubes SET version = ?", (version,))

    writer = threading.Thread(target=write)
    writer.start()
    seen = [readonly.read(data) for _ in range(300)]
    done.set()
    writer.join()
    pairs = {(each.volumes[0].version, each.dynakubes[0].version) for each in seen[1:] if each.state == "ok"}
    assert pairs <= {("1.0", "1.0"), ("2.0", "2.0"), ("", "1.0")}
    assert len(pairs) > 1


def test_without_a_database_the_copy_has_the_dynakubes(data: DataDir, metadata: Database) -> None:
    metadata.close()
    for file in files(data):
        data.database.with_name(file).unlink()
    found = readonly.read(data)
    assert (found.state, found.dynakubes) == ("missing", (DEMO,))
    assert files(data) == set()


def test_a_file_that_is_none_is_reported_with_the_reason(data: DataDir, metadata: Database) -> None:
    metadata.close()
    data.database.write_bytes(b"x" * 8192)
    found = readonly.read(data)
    assert (found.state, found.dynakubes) == ("unreadable", (DEMO,))
    assert found.problem == "the metadata database can't be read: file is not a database"


@pytest.mark.parametrize(("schema", "text"), [("0000", "(its schema is 0000, ours "), (database.HEAD, "no such table")])
def test_a_schema_of_another_release_is_named(data: DataDir, metadata: Database, schema: str, text: str) -> None:
    with metadata.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (schema,))
        connection.execute("DROP TABLE versions")
    problem = readonly.read(data).problem
    assert text in problem
    assert ("its schema" in problem) == (schema == "0000")
