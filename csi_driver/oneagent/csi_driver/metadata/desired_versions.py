"""Desired version and settings of each DynaKube: written by the provisioner, read by the server.

The server keeps the last rows in memory. While the database is unavailable, or empty because it was lost, the server
reads the provisioner's copy in `dynakubes.json`. So pods can start on a node whose database can't be read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.metadata import database, statements

log = logging.getLogger(__name__)

MOUNT_ATTEMPTS: Final = 10
MOUNT_TIMEOUT_SECONDS: Final = 600.0

WAIT_THEN_LAST_GOOD: Final = "wait-then-last-good"
LAST_GOOD: Final = "last-good"
FAIL: Final = "fail"
"""Mount policies; `server.mount_policy` describes them."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """One row of the dynakubes table. `version` and `layer` are empty until they are known."""

    name: DynaKubeName
    tenant: TenantId = TenantId("")
    version: Version = Version("")
    layer: LayerId = LayerId("")
    mount_attempts: int = MOUNT_ATTEMPTS
    mount_timeout_seconds: float = MOUNT_TIMEOUT_SECONDS
    mount_policy: str = WAIT_THEN_LAST_GOOD
    good_version: Version = Version("")
    """The version that was last desired and in the store; `good_layer` is its configuration."""
    good_layer: LayerId = LayerId("")
    cluster_id: str = ""
    host_tenant: bool = False
    condition: str = ""
    """Reason why the version is not in the store, as text; empty if it is."""
    changed_at: float = 0.0

    @property
    def may_fall_back(self) -> bool:
        """Return whether pods may get the last good version, so that it has to stay in the store."""
        return self.mount_policy in {LAST_GOOD, WAIT_THEN_LAST_GOOD}


class DesiredStateReader:
    """The server's cache of the table. Thread-safe; never raises, never waits longer than a busy time-out."""

    def __init__(self, metadata: database.Database, copy: Path) -> None:
        self._database = metadata
        self._copy = copy
        self._guard = threading.Lock()
        self._rows: Mapping[DynaKubeName, DesiredState] = {}
        self._stale = True
        self._unavailable = False

    def refresh(self) -> bool:
        """Read the rows again if the provisioner has written; return whether they differ."""
        with self._guard:
            try:
                # A change that could not be read counts again the next time.
                self._stale = self._database.changed() or self._stale
                if not self._stale and self._rows:
                    return False
                fresh = self._read()
                self._stale = self._unavailable = False
            except database.DatabaseUnavailableError as error:
                if not self._unavailable:
                    log.warning("metadata not readable, DynaKubes read from their copy", extra=logs.fields(error=error))
                self._unavailable = True
                fresh = read_copy(self._copy) or self._rows
            different = fresh != self._rows
            self._rows = fresh
            return different

    def is_unknown(self, name: DynaKubeName) -> bool:
        """Return whether the provisioner has written the DynaKubes, maybe none, and this one is not among them."""
        written = bool(self._rows) or self._copy.exists()
        # The copy is written first: between the two, a DynaKube is known though the table does not have it.
        return written and name not in self._rows and name not in read_copy(self._copy)

    def get_cached(self, name: DynaKubeName) -> DesiredState | None:
        """Return the row as of the last refresh."""
        return self._rows.get(name)

    def get_copied(self, name: DynaKubeName) -> DesiredState | None:
        """Return the row in the copy. It is newer while the table is locked: the provisioner writes the copy first."""
        return read_copy(self._copy).get(name)

    def get(self, name: DynaKubeName) -> DesiredState | None:
        """Return the newest row of a DynaKube; None if the provisioner has not seen it."""
        self.refresh()
        return self._rows.get(name)

    def names(self) -> frozenset[DynaKubeName]:
        """Return the names of the DynaKubes that the provisioner has seen, by the newest rows."""
        self.refresh()
        return frozenset(self._rows)

    def _read(self) -> Mapping[DynaKubeName, DesiredState]:
        with self._database.reading() as connection:
            rows = connection.execute(statements.SELECT_DYNAKUBES).fetchall()
        # A lost database is replaced by an empty one, which stays empty until the provisioner writes again. After a
        # loss of power the table may be some writes behind the copy.
        newest = {DynaKubeName(row["name"]): DesiredState(**row) for row in rows}
        copied = read_copy(self._copy)
        if not newest:
            return copied
        for name, row in newest.items():
            if name in copied and copied[name].changed_at > row.changed_at:
                newest[name] = copied[name]
        return newest


def read_copy(copy: Path) -> dict[DynaKubeName, DesiredState]:
    """Return the rows of the copy; none if it is unreadable."""
    try:
        rows = json.loads(copy.read_text())
        return {DynaKubeName(row["name"]): DesiredState(**row) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def replace_all(metadata: database.Database, copy: Path, desired: Iterable[DesiredState]) -> None:
    """Replace the rows of the table and of its copy (called by the provisioner)."""
    rows = [dataclasses.asdict(row) for row in desired]
    fresh = copy.with_name(f"{copy.name}.new")
    fresh.write_text(json.dumps(rows))
    fresh.rename(copy)
    with metadata.transaction() as connection:
        connection.execute(statements.DROP_DYNAKUBES)
        connection.executemany(statements.ADD_DYNAKUBE, rows)
