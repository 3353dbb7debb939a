"""Read-only access to the metadata database: creates, upgrades and renames no file.

The database is in WAL mode. With a write-ahead log beside it, it is opened read-only like by any reader. Without
a log no process has it open, and SQLite would create one even for a read-only connection; so it is then opened as
immutable.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata import database, desired_versions, statements
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.volumes import VolumeRecord

_BUSY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class MetadataSnapshot:
    """The rows of all tables. Unless `state` is "ok" there are only DynaKubes, from the provisioner's copy."""

    state: Literal["ok", "missing", "unreadable"]
    problem: str = ""
    volumes: tuple[VolumeRecord, ...] = ()
    versions: tuple[VersionRecord, ...] = ()
    dynakubes: tuple[DesiredState, ...] = ()


def read(data: DataDir) -> MetadataSnapshot:
    """Read all tables in one transaction; never raises for a faulty file."""
    try:
        if not data.database.exists():
            return MetadataSnapshot("missing", "there is no metadata database", dynakubes=_read_copy(data))
        with contextlib.closing(_connect(data.database)) as connection:
            return _read_rows(connection)
    except (sqlite3.Error, OSError) as error:
        problem = f"the metadata database can't be read: {error}"
        return MetadataSnapshot("unreadable", problem, dynakubes=_read_copy(data))


def _connect(path: Path) -> sqlite3.Connection:
    log = path.with_name(f"{path.name}-wal")
    is_immutable = not log.exists() or log.stat().st_size == 0
    options = "mode=ro&immutable=1" if is_immutable else "mode=ro"
    uri = f"file:{urllib.parse.quote(os.fspath(path))}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    return connection


def _read_rows(connection: sqlite3.Connection) -> MetadataSnapshot:
    connection.execute("BEGIN")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    schema = row[0] if row else "unknown"
    try:
        return MetadataSnapshot(
            "ok",
            volumes=tuple(VolumeRecord(**row) for row in connection.execute(statements.SELECT_VOLUMES)),
            versions=tuple(VersionRecord(**row) for row in connection.execute(statements.SELECT_VERSIONS)),
            dynakubes=tuple(DesiredState(**row) for row in connection.execute(statements.SELECT_DYNAKUBES)),
        )
    except sqlite3.Error as error:
        if schema == database.HEAD:
            raise
        raise sqlite3.OperationalError(f"{error} (its schema is {schema}, ours {database.HEAD})") from error


def _read_copy(data: DataDir) -> tuple[DesiredState, ...]:
    return tuple(desired_versions.read_copy(data.dynakubes).values())
