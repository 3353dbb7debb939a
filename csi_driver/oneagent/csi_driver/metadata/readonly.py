"""What the metadata database says, for readers that must change nothing: no file is made, upgraded or put aside.

The database is in WAL mode. With a write-ahead log beside it, it is opened read-only like any reader of a
running system. Without one nobody has it open, and SQLite would leave a new log behind even for a reader that
may not write; so it is then opened as a file that doesn't change.
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
class Recorded:
    """The rows; empty unless `state` is "ok". DynaKubes then come from the provisioner's copy, if there is one."""

    state: Literal["ok", "missing", "unreadable"]
    problem: str = ""
    volumes: tuple[VolumeRecord, ...] = ()
    versions: tuple[VersionRecord, ...] = ()
    dynakubes: tuple[DesiredState, ...] = ()


def read(data: DataDir) -> Recorded:
    """The rows of all tables at one moment. Never raises for what may be wrong with the file."""
    try:
        if not data.database.exists():
            return Recorded("missing", "there is no metadata database", dynakubes=_copied(data))
        with contextlib.closing(_connect(data.database)) as connection:
            return _rows(connection)
    except (sqlite3.Error, OSError) as error:
        problem = f"the metadata database can't be read: {error}"
        return Recorded("unreadable", problem, dynakubes=_copied(data))


def _connect(path: Path) -> sqlite3.Connection:
    log = path.with_name(f"{path.name}-wal")
    unchanging = not log.exists() or log.stat().st_size == 0
    how = "mode=ro&immutable=1" if unchanging else "mode=ro"
    address = f"file:{urllib.parse.quote(os.fspath(path))}?{how}"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    return connection


def _rows(connection: sqlite3.Connection) -> Recorded:
    connection.execute("BEGIN")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    schema = row[0] if row else "not known"
    try:
        return Recorded(
            "ok",
            volumes=tuple(VolumeRecord(**row) for row in connection.execute(statements.SELECT_VOLUMES)),
            versions=tuple(VersionRecord(**row) for row in connection.execute(statements.SELECT_VERSIONS)),
            dynakubes=tuple(DesiredState(**row) for row in connection.execute(statements.SELECT_DYNAKUBES)),
        )
    except sqlite3.Error as error:
        if schema == database.HEAD:
            raise
        raise sqlite3.OperationalError(f"{error} (its schema is {schema}, ours {database.HEAD})") from error


def _copied(data: DataDir) -> tuple[DesiredState, ...]:
    return tuple(desired_versions.read_copy(data.dynakubes).values())
