"""The provisioner's memory, written through to its tables: DynaKubes, versions, and how far notices were read.

The provisioner is the only writer of these, so like the server it goes on from memory while the database is
away, and writes everything again when the file is another than before.
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
        self._away = False
        metadata.on_new_file = self.rewrite

    def load(self) -> None:
        """What an earlier process knew. DynaKubes come from their copy if the database is away, or a new one."""
        with contextlib.suppress(database.DatabaseUnavailableError), self._database.reading() as connection:
            wanted = connection.execute(statements.SELECT_DYNAKUBES).fetchall()
            versions = connection.execute(statements.SELECT_VERSIONS).fetchall()
            cursor = connection.execute(statements.SELECT_CURSOR, {"name": _READER}).fetchone()
            self._desired = {DynaKubeName(row["name"]): DesiredState(**row) for row in wanted}
            self._versions = {Version(row["version"]): VersionRecord(**row) for row in versions}
            self._cursor = cursor[0] if cursor else 0
        if not self._desired:
            self._desired = desired_versions.read_copy(self._copy)
            self._dirty = bool(self._desired)

    def rewrite(self) -> None:
        """Called with the database's lock held, which `flush` takes after ours: so this must not take ours."""
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
        """Replace what is wanted; whether the table now says so."""
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
        """Change a version's row; fields that are not named stay as they are."""
        with self._guard:
            old = self._versions.get(version) or VersionRecord(version, state)
            fields.setdefault("message", "")
            self._versions[version] = dataclasses.replace(
                old,
                state=state,
                changed_at=self._now(),
                **fields,  # type: ignore[arg-type]
            )
            self._dropped.discard(version)
            self._dirty = True
        self.flush()

    def mark_used(self, versions: Iterable[Version]) -> None:
        """These versions are in use now: budget evictions begin with the one whose use is longest ago."""
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
        """Write what is not written yet; False if the database does not let us."""
        with self._guard:
            if not self._dirty:
                return True
            # Before the writing: should the file be another one in the middle of it, all is written again.
            self._dirty = False
            try:
                desired_versions.replace_all(self._database, self._copy, self._desired.values())
                with self._database.transaction() as connection:
                    for version in self._dropped:
                        connection.execute(statements.DROP_VERSION, {"gone": version})
                    connection.executemany(
                        statements.PUT_VERSION, [dataclasses.asdict(row) for row in self._versions.values()]
                    )
            except (database.DatabaseUnavailableError, OSError) as error:
                self._dirty = True
                if not self._away:
                    log.error("metadata is kept in memory for now", extra=logs.facts(error=error))
                self._away = True
                return False
            self._dropped.clear()
            self._away = False
            return True

    def desired_anywhere(self) -> list[DesiredState]:
        """What is wanted, and what the server may still take for wanted, since it is not overwritten yet."""
        with self._database.reading() as connection:
            written = [DesiredState(**row) for row in connection.execute(statements.SELECT_DYNAKUBES).fetchall()]
        return [*self._desired.values(), *written]

    def volumes(self) -> list[VolumeRecord]:
        """The server's rows; `database.DatabaseUnavailableError` if they can't be read, and then nothing may be removed."""
        with self._database.reading() as connection:
            return [VolumeRecord(**row) for row in connection.execute(statements.SELECT_VOLUMES).fetchall()]

    @contextlib.contextmanager
    def notices(self) -> Iterator[list[Notice]]:
        """What the server has said since the last time; counts as read when the block ends well."""
        with self._database.reading() as connection:
            rows = connection.execute(statements.SELECT_NOTICES_AFTER, {"after": self._cursor}).fetchall()
        yield [Notice(**{name: row[name] for name in row.keys() if name != "id"}) for row in rows]  # noqa: SIM118
        if rows:
            # Before the transaction, which begins at 0 again if the file is another one by now.
            self._cursor = rows[-1]["id"]
            with self._database.transaction() as connection:
                connection.execute(statements.PUT_CURSOR, {"reader": _READER, "notice_id": self._cursor})


def _unchanged(row: DesiredState, old: DesiredState | None) -> bool:
    return old is not None and dataclasses.replace(row, changed_at=old.changed_at) == old


def _stamped(row: DesiredState, now: float) -> DesiredState:
    return dataclasses.replace(row, changed_at=now)
