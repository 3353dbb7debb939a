"""One SQLite file, shared by the server and the provisioner, that must never hold up a mount.

WAL mode and short transactions let both processes work at once. The remaining failures are handled here:

* locked, read-only, disk full: `DatabaseUnavailableError` after `BUSY_MILLISECONDS`. The caller keeps its rows in
  memory and writes them later.
* corrupt, no database at all, or of a newer release: the file is moved aside (`metadata.db.aside-…`) and an empty
  one takes its place. Each writer then writes its rows again (see `on_new_file`), the server from its memory
  and, after a start, from the mount table.
* moved aside by the other process, or deleted: detected by the inodes of the file, its write-ahead log and index
  before each transaction. SQLite itself would go on writing to a deleted log.

    DatabaseError
    └── DatabaseUnavailableError     not available now; nothing was written
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from oneagent.common import logs
from oneagent.csi_driver.metadata import statements

log = logging.getLogger(__name__)

BUSY_MILLISECONDS: Final = 250
UNAVAILABLE_SECONDS: Final = 0.4
"""Time without a new attempt after a failure."""
UPGRADE_SECONDS: Final = 60.0
HEAD: Final = "0003"
"""The newest migration; a test compares it with the scripts."""

_PRAGMAS: Final = (
    # NORMAL loses the last commits in a power cut, never the file: start-up reconciles.
    "PRAGMA synchronous=NORMAL",
    f"PRAGMA busy_timeout={BUSY_MILLISECONDS}",
    "PRAGMA cache_size=-512",
    "PRAGMA foreign_keys=ON",
)
_DATA_VERSION: Final = "PRAGMA data_version"
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PASSING: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


Change = tuple[str, Mapping[str, Any]]
"""A statement and its values."""


class DatabaseError(Exception):
    """The root of this module's errors."""


class DatabaseUnavailableError(DatabaseError):
    """The database can't be read or written at the moment."""


class _CorruptDatabaseError(Exception):
    pass


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection with explicit transactions. Writes start with BEGIN IMMEDIATE, so they can't fail half-way."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    return connection


class Database:
    """One process's connection. Thread-safe: transactions of one process follow each other."""

    def __init__(self, path: Path, lock: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock_path = lock
        self._guard = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._files = (str(path), f"{path}-wal", f"{path}-shm")
        self._inodes: tuple[int, ...] = ()
        """Those of `_files` as the connection has them open; none before the first connection."""
        self._data_version = -1
        self._unavailable_until = 0.0
        self.on_new_file: Callable[[], None] = lambda: None
        """Called when the file was replaced, so that the writer writes its rows again."""
        self.on_busy: Callable[[float], None] = lambda _seconds: None
        """Called with the duration of each transaction, lock waits included."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a write transaction and commit at its end; `DatabaseUnavailableError` otherwise."""
        with self._locked(), _transaction(self._current()) as connection:
            yield connection

    def write(self, collect: Callable[[], Sequence[Change]]) -> None:
        """Commit the changes that `collect` returns, together.

        It is called when no other thread can write, so of two callers the later one has the newer state. A single
        statement is its own transaction, at a third of the cost.
        """
        with self._locked():
            connection = self._current()
            changes = collect()
            if len(changes) > 1:
                with _transaction(connection):
                    for change in changes:
                        connection.execute(*change)
            elif changes:
                connection.execute(*changes[0])

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for reads; each statement is a transaction of its own."""
        with self._locked():
            yield self._current()

    def changed(self) -> bool:
        """Return whether another process has committed since the last call. Costs a few microseconds."""
        seen = self._fast_data_version()
        if seen is None:
            with self.reading() as connection:
                seen = connection.execute(_DATA_VERSION).fetchone()[0]
        previous, self._data_version = self._data_version, seen
        return bool(seen != previous)

    def _fast_data_version(self) -> int | None:
        """Return the data version by the fast path of every publish; None if the slow path is needed."""
        with self._guard:
            if self._connection is None or self._clock() < self._unavailable_until:
                return None
            try:
                if self._find_inodes() == self._inodes:
                    return int(self._connection.execute(_DATA_VERSION).fetchone()[0])
            except (OSError, sqlite3.Error):
                pass
        return None

    def close(self) -> None:
        with self._guard:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        self._data_version = -1

    def _current(self) -> sqlite3.Connection:
        if self._connection is not None and self._find_inodes() == self._inodes:
            return self._connection
        self._disconnect()
        self._prepare()
        self._connection = connect(self._path)
        # The first read opens the log and its index.
        self._connection.execute("SELECT version_num FROM alembic_version").fetchone()
        previous, self._inodes = self._inodes, self._find_inodes()
        if previous:
            log.warning("metadata database was replaced", extra=logs.fields(path=self._path))
            self.on_new_file()
        return self._connection

    def _find_inodes(self) -> tuple[int, ...]:
        """Return the inodes of the database's files; 0 for one that is missing."""
        found = []
        for file in self._files:
            try:
                found.append(os.stat(file).st_ino)
            except FileNotFoundError:
                found.append(0)
        return tuple(found)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Admit one thread at a time and raise every error as `DatabaseUnavailableError`.

        After a failure the callers in the queue fail at once: of a hundred publishes one waits, not each.
        """
        with self._guard:
            started = time.perf_counter()
            if self._clock() < self._unavailable_until:
                raise DatabaseUnavailableError(f"metadata database {self._path} was unavailable a moment ago")
            try:
                yield
            except sqlite3.Error as error:
                if _is_corrupt(error):
                    self._disconnect()
                    move_aside(self._path, self._lock_path, f"it is corrupt: {error}")
                else:
                    self._unavailable_until = self._clock() + UNAVAILABLE_SECONDS
                    if _code(error) not in _PASSING:
                        # A connection to a file that was read-only when opened stays read-only.
                        self._disconnect()
                raise DatabaseUnavailableError(f"metadata database {self._path}: {error}") from error
            except OSError as error:
                self._unavailable_until = self._clock() + UNAVAILABLE_SECONDS
                raise DatabaseUnavailableError(f"metadata database {self._path}: {error.strerror}") from error
            finally:
                self.on_busy(time.perf_counter() - started)

    def _prepare(self) -> None:
        """Make the file usable: create it, upgrade it, or move it aside and create it."""
        with _exclusive(self._lock_path):
            try:
                revision = _check(self._path)
            except _CorruptDatabaseError as error:
                _rename_aside(self._path, str(error))
                revision = None
            if revision is None:
                _create(self._path)
            elif revision != HEAD:
                _upgrade(self._path, revision)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _is_corrupt(error: sqlite3.Error) -> bool:
    return _code(error) in _CORRUPT


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Hold the lock that creating, upgrading and moving aside need; waits for the other process briefly.

    On a read-only disk none of these is possible, and a lock file that is missing can't be created.
    """
    try:
        file = lock.open("a")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield
        return
    with file:
        deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield


def _check(path: Path) -> str | None:
    """Return the file's migration, None without a file; `_CorruptDatabaseError` if the file is unusable."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = sqlite3.connect(path, timeout=BUSY_MILLISECONDS / 1000)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _CorruptDatabaseError("quick_check failed")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone():
            raise _CorruptDatabaseError("it is not a metadata database")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        revision = str(row[0]) if row else ""
        if not revision or revision > HEAD:
            raise _CorruptDatabaseError(f"it is of a newer release (schema {revision!r}, ours is {HEAD})")
        return revision
    except sqlite3.DatabaseError as error:
        if _is_corrupt(error):
            raise _CorruptDatabaseError(str(error)) from error
        raise
    finally:
        connection.close()


def move_aside(path: Path, lock: Path, reason: str) -> None:
    """Rename a corrupt file, unless the other process has done so. Ignores errors: the next call tries again."""
    with contextlib.suppress(OSError, sqlite3.Error), _exclusive(lock):
        try:
            _check(path)
        except _CorruptDatabaseError:
            _rename_aside(path, reason)


def _rename_aside(path: Path, reason: str) -> None:
    aside = path.with_name(f"{path.name}.aside-{time.time_ns()}")
    log.error("metadata database moved aside", extra=logs.fields(path=path, aside=aside, reason=reason))
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))


def _create(path: Path) -> None:
    """Create a file with the newest schema; it appears under its name only when complete."""
    fresh = path.with_name(f"{path.name}.new")
    for suffix in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    connection = connect(fresh)
    connection.execute("PRAGMA journal_mode=WAL")
    for statement in statements.SCHEMA:
        connection.execute(statement)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
    connection.close()
    # SQLite would replay the log of an earlier file into this one.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.rename(path)


def _upgrade(path: Path, revision: str) -> None:
    """Bring an older file up to date, in a child process: alembic is 7 MiB that no running server needs."""
    log.info("metadata database upgrade started", extra=logs.fields(path=path, schema=revision, to=HEAD))
    command: list[Any] = [sys.executable, "-m", "oneagent.csi_driver.metadata.migrate", path]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=UPGRADE_SECONDS)
        failure = f"its upgrade failed: {result.stderr.strip().splitlines()[-1:]}" if result.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"its upgrade took longer than {UPGRADE_SECONDS:g} s"
    if failure:
        _rename_aside(path, failure)
        _create(path)
