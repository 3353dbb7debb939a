"""The provisioner's state in memory, written through to its tables: DynaKubes, versions, cursor of notices.

The provisioner is the only writer of these tables. So it continues from memory, like the server, while the database
is unavailable, and writes all rows again after the file was replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.metadata import database, desired_versions, statements
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord

log = logging.getLogger(__name__)

_READER: Final = "events"
_IN_PROGRESS: Final = frozenset({VersionState.DOWNLOADING, VersionState.UNPACKING})


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One row of the versions table; see `models.VersionRow`."""

    version: Version
    state: str
    source: str = ""
    size_bytes: int = 0
    message: str = ""
    installed_at: float = 0.0
    last_used_at: float = 0.0
    changed_at: float = 0.0


class ProvisionerState:
    """Thread-safe: installs report from their own threads."""

    def __init__(self, metadata: database.Database, copy: Path, now: Callable[[], float] = time.time) -> None:
        self._database = metadata
        self._copy = copy
        self._now = now
        self._guard = threading.RLock()
        self._desired: dict[DynaKubeName, DesiredState] = {}
        self._versions: dict[Version, VersionRecord] = {}
        self._dropped: set[Version] = set()
        self._cursor = 0
        self._dirty = False
        self._copied = False
        """This process has written the copy. One that is missing then was deleted, and is written again."""
        self._unavailable = False
        metadata.on_new_file = self.rewrite

    def load(self) -> None:
        """Load the rows of an earlier process, of each DynaKube the newer one of table and copy.

        Neither is synced, so either may be some writes behind after a loss of power.
        """
        with contextlib.suppress(database.DatabaseUnavailableError), self._database.reading() as connection:
            rows = connection.execute(statements.SELECT_DYNAKUBES).fetchall()
            versions = connection.execute(statements.SELECT_VERSIONS).fetchall()
            cursor = connection.execute(statements.SELECT_CURSOR, {"name": _READER}).fetchone()
            self._desired = {DynaKubeName(row["name"]): DesiredState(**row) for row in rows}
            self._versions = {Version(row["version"]): VersionRecord(**row) for row in versions}
            self._cursor = cursor[0] if cursor else 0
        for name, copied in desired_versions.read_copy(self._copy).items():
            row = self._desired.get(name)
            if row is None or copied.changed_at > row.changed_at:
                self._desired[name] = copied
                self._dirty = True

    def rewrite(self) -> None:
        """Mark all rows unwritten.

        The database calls this with its lock held, which `flush` acquires after ours. So ours is not acquired here.
        """
        self._dirty = True
        self._cursor = 0

    @property
    def desired(self) -> Mapping[DynaKubeName, DesiredState]:
        return self._desired

    @property
    def versions(self) -> Mapping[Version, VersionRecord]:
        with self._guard:
            return dict(self._versions)

    def set_desired(self, rows: Iterable[DesiredState]) -> bool:
        """Replace the desired state; return whether the table has it."""
        fresh = {row.name: row for row in rows}
        with self._guard:
            same = {name: dataclasses.replace(row, changed_at=0) for name, row in fresh.items()} == {
                name: dataclasses.replace(row, changed_at=0) for name, row in self._desired.items()
            }
            if not same:
                self._desired = {
                    name: row if _unchanged(row, self._desired.get(name)) else _stamped(row, self._now())
                    for name, row in fresh.items()
                }
                self._dirty = True
        return self.flush()

    def put_version(self, version: Version, state: VersionState, **fields: object) -> None:
        """Change a version's row; fields that are not named stay as they are, but for the message.

        The message of a failed install stays while it is tried again: a retry in progress is no success.
        """
        with self._guard:
            old = self._versions.get(version) or VersionRecord(version, state)
            is_retry = state in _IN_PROGRESS and old.state in {*_IN_PROGRESS, VersionState.FAILED}
            fields.setdefault("message", old.message if is_retry else "")
            self._versions[version] = dataclasses.replace(
                old,
                state=state,
                changed_at=self._now(),
                **fields,  # type: ignore[arg-type]
            )
            self._dropped.discard(version)
            self._dirty = True
        self.flush()

    def put_installed(self, version: Version, size_bytes: int, **fields: object) -> None:
        """Mark a version as ready in the store, installed and used now."""
        now = self._now()
        self.put_version(
            version, VersionState.READY, size_bytes=size_bytes, installed_at=now, last_used_at=now, **fields
        )

    def mark_used(self, versions: Iterable[Version]) -> None:
        """Set the time of last use to now; evictions begin with the least recently used version."""
        with self._guard:
            for version in versions:
                if record := self._versions.get(version):
                    self._versions[version] = dataclasses.replace(record, last_used_at=self._now())
                    self._dirty = True

    def drop_version(self, version: Version) -> None:
        with self._guard:
            if self._versions.pop(version, None) is not None:
                self._dropped.add(version)
                self._dirty = True

    def flush(self) -> bool:
        """Write the unwritten rows; False if the database is unavailable."""
        with self._guard:
            if not self._dirty and not (self._copied and not self._copy.exists()):
                return True
            # Before the write: if the file is replaced meanwhile, all rows are written again.
            self._dirty = False
            try:
                desired_versions.replace_all(self._database, self._copy, self._desired.values())
                self._copied = True
                with self._database.transaction() as connection:
                    for version in self._dropped:
                        connection.execute(statements.DROP_VERSION, {"version": version})
                    connection.executemany(
                        statements.PUT_VERSION, [dataclasses.asdict(row) for row in self._versions.values()]
                    )
            except (database.DatabaseUnavailableError, OSError) as error:
                self._dirty = True
                if not self._unavailable:
                    log.error("metadata write failed, rows stay in memory", extra=logs.fields(error=error))
                self._unavailable = True
                return False
            self._dropped.clear()
            self._unavailable = False
            return True

    def all_desired(self) -> list[DesiredState]:
        """Return the desired state, and the rows in the table, which the server still uses until they are replaced."""
        with self._database.reading() as connection:
            written = [DesiredState(**row) for row in connection.execute(statements.SELECT_DYNAKUBES).fetchall()]
        return [*self._desired.values(), *written]

    def volumes(self) -> list[VolumeRecord]:
        """Return the server's rows; after `database.DatabaseUnavailableError` nothing may be removed."""
        with self._database.reading() as connection:
            return [VolumeRecord(**row) for row in connection.execute(statements.SELECT_VOLUMES).fetchall()]

    @contextlib.contextmanager
    def notices(self) -> Iterator[list[Notice]]:
        """Yield the server's new notices; they count as read when the block ends without an error."""
        with self._database.reading() as connection:
            rows = connection.execute(statements.SELECT_NOTICES_AFTER, {"after": self._cursor}).fetchall()
        yield [Notice(**{name: row[name] for name in row.keys() if name != "id"}) for row in rows]  # noqa: SIM118
        if rows:
            # Before the transaction, which resets it to 0 if the file was replaced meanwhile.
            self._cursor = rows[-1]["id"]
            with self._database.transaction() as connection:
                connection.execute(statements.PUT_CURSOR, {"reader": _READER, "notice_id": self._cursor})


def _unchanged(row: DesiredState, old: DesiredState | None) -> bool:
    return old is not None and dataclasses.replace(row, changed_at=old.changed_at) == old


def _stamped(row: DesiredState, now: float) -> DesiredState:
    return dataclasses.replace(row, changed_at=now)
