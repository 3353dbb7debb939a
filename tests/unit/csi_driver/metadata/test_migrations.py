"""Migrations, models, generate_sql statements and records are four forms of one schema."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from oneagent.csi_driver.metadata import database, generate_sql, migrate, models, statements
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord

VOLUME = {
    "id": "csi-1",
    "mode": "app",
    "dynakube": "demo",
    "tenant": "abc",
    "version": "1.0",
    "layer": "0123",
    "target": "/pods/1/mount",
    "read_only": 1,
    "pod_name": "shop",
    "pod_namespace": "default",
    "pod_uid": "1",
    "state": "mounted",
    "attempts": 2,
    "first_failed_at": 1.5,
    "reason": "because",
    "changed_at": 2.5,
}
DYNAKUBE = {
    "name": "demo",
    "tenant": "abc",
    "version": "1.0",
    "layer": "0123",
    "mount_attempts": 7,
    "mount_timeout_seconds": 60.0,
    "condition": "",
    "changed_at": 3.5,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.db"


def opened(path: Path) -> database.Database:
    return database.Database(path, path.with_suffix(".lock"))


def insert(path: Path, table: str, row: dict[str, object]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        columns = ", ".join(row)
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", [*row.values()])


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table with its columns: name, type, whether it may be null, and its place in the key."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: sorted(
                (name, {"FLOAT": "DOUBLE"}.get(kind, kind), needed, key)
                for _, name, kind, needed, _, key in connection.execute(f"PRAGMA table_info({table})")
            )
            for table in tables
            if table != "alembic_version"
        }


def indexes(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql != ''")
        }


def test_a_file_of_the_first_release_is_upgraded_with_all_that_is_in_it(path: Path) -> None:
    migrate.upgrade(path, "0001")
    insert(path, "volumes", VOLUME)
    insert(path, "dynakubes", DYNAKUBE)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    metadata = opened(path)
    with metadata.reading() as connection:
        assert [dict(row) for row in connection.execute(statements.SELECT_VOLUMES)] == [VOLUME]
        (dynakube,) = connection.execute(statements.SELECT_DYNAKUBES)
        assert dict(dynakube) == DYNAKUBE | {
            "cluster_id": "",
            "host_tenant": 0,
            "mount_policy": "wait",
            "good_version": "",
            "good_layer": "",
        }
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone()[0] == database.HEAD
    metadata.close()
    assert list(path.parent.glob("*.aside-*")) == []


def test_an_upgraded_file_and_a_fresh_one_have_the_same_schema(path: Path) -> None:
    migrate.upgrade(path)
    fresh = path.with_name("fresh.db")
    metadata = opened(fresh)
    with metadata.reading():
        pass
    metadata.close()
    assert columns(path) == columns(fresh)
    assert indexes(path) == indexes(fresh)


@pytest.mark.parametrize("made_by", ["migrations", "driver"])
def test_the_models_say_what_the_file_holds(path: Path, made_by: str) -> None:
    if made_by == "migrations":
        migrate.upgrade(path)
    else:
        metadata = opened(path)
        with metadata.reading():
            pass
        metadata.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, models.Base.metadata) == []
    engine.dispose()


def test_the_newest_script_is_the_one_that_the_driver_expects() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [database.HEAD]


def test_the_compiled_statements_are_current() -> None:
    written = Path(statements.__file__).read_text()
    assert written == generate_sql.render(), "run: python -m oneagent.csi_driver.metadata.generate_sql"


@pytest.mark.parametrize(
    ("record", "model", "own"),
    [
        (VolumeRecord, models.VolumeRow, set()),
        (DesiredState, models.DynaKubeRow, set()),
        (VersionRecord, models.VersionRow, set()),
        (Notice, models.NoticeRow, {"id"}),
    ],
)
def test_records_have_the_columns_of_their_table(record: type, model: type[models.Base], own: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(record)}
    assert fields == {column.name for column in model.__table__.columns} - own


@pytest.mark.parametrize("statement", [name for name in vars(statements) if re.fullmatch("[A-Z_]+", name)])
def test_every_statement_can_be_prepared(path: Path, statement: str) -> None:
    metadata = opened(path)
    sql = getattr(statements, statement)
    with metadata.reading() as connection:
        for one in [] if statement == "SCHEMA" else [sql]:
            connection.execute(f"EXPLAIN {one}", dict.fromkeys(re.findall(r":(\w+)", one)))
    metadata.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    migrate.upgrade(path, "0001")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notices (in_the_way INTEGER)")
    before = columns(path)
    with pytest.raises(Exception, match="notices"):
        migrate.upgrade(path)
    assert columns(path) == before


def test_a_file_that_can_not_be_upgraded_is_put_aside(path: Path) -> None:
    migrate.upgrade(path, "0001")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notices (in_the_way INTEGER)")
    metadata = opened(path)
    with metadata.reading() as connection:
        assert connection.execute(statements.SELECT_VOLUMES).fetchall() == []
    metadata.close()
    assert len(list(path.parent.glob("metadata.db.aside-*"))) == 1


def test_a_file_of_a_newer_release_is_put_aside_and_kept(path: Path) -> None:
    migrate.upgrade(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    insert(path, "volumes", VOLUME)
    metadata = opened(path)
    with metadata.reading() as connection:
        assert connection.execute(statements.SELECT_VOLUMES).fetchall() == []
    metadata.close()
    (aside,) = path.parent.glob("metadata.db.aside-*")
    with contextlib.closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT id FROM volumes").fetchall() == [("csi-1",)]
