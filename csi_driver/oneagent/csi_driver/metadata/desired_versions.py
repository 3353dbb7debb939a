"""Desired version and settings of each DynaKube: written by the provisioner, read by the server.

The server keeps the last rows in memory. While the database is away, or empty because it was lost, it reads the
copy that the provisioner leaves in `dynakubes.json`, so that pods can start on a node whose database can't be read.
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


@dataclass(frozen=True, slots=True)
class DesiredState:
    """One row of the dynakubes table. `version` and `layer` are empty until they are known."""

    name: DynaKubeName
    tenant: TenantId = TenantId("")
    version: Version = Version("")
    layer: LayerId = LayerId("")
    mount_attempts: int = MOUNT_ATTEMPTS
    mount_timeout_seconds: float = MOUNT_TIMEOUT_SECONDS
    mount_policy: str = "wait"
    good_version: Version = Version("")
    """The version that was last desired and in the store; `good_layer` is its configuration."""
    good_layer: LayerId = LayerId("")
    cluster_id: str = ""
    host_tenant: bool = False
    condition: str = ""
    """Why the version is not in the store, for people; empty if it is."""
    changed_at: float = 0.0


class DesiredStateReader:
    """The server's view of the table. Thread-safe; never raises, never waits longer than a busy time-out."""

    def __init__(self, metadata: database.Database, copy: Path) -> None:
        self._database = metadata
        self._copy = copy
        self._guard = threading.Lock()
        self._wanted: Mapping[DynaKubeName, DesiredState] = {}
        self._stale = True
        self._away = False

    def refresh(self) -> bool:
        """Read the rows again if the provisioner has written; return whether they differ."""
        with self._guard:
            try:
                # A change that could not be read is still one the next time.
                self._stale = self._database.changed() or self._stale
                if not self._stale and self._wanted:
                    return False
                fresh = self._read()
                self._stale = self._away = False
            except database.DatabaseUnavailableError as error:
                if not self._away:
                    log.warning("reading the DynaKubes from their copy", extra=logs.facts(error=error))
                self._away = True
                fresh = read_copy(self._copy) or self._wanted
            different = fresh != self._wanted
            self._wanted = fresh
            return different

    def known(self, name: DynaKubeName) -> DesiredState | None:
        """Return the row as of the last refresh."""
        return self._wanted.get(name)

    def copied(self, name: DynaKubeName) -> DesiredState | None:
        """The row in the copy, which the provisioner writes before the table: newer while the table is locked."""
        return read_copy(self._copy).get(name)

    def get(self, name: DynaKubeName) -> DesiredState | None:
        """The newest row of a DynaKube, None for one that the provisioner has not seen."""
        self.refresh()
        return self._wanted.get(name)

    def _read(self) -> Mapping[DynaKubeName, DesiredState]:
        with self._database.reading() as connection:
            rows = connection.execute(statements.SELECT_DYNAKUBES).fetchall()
        # A database that was lost is replaced by an empty one, which holds nothing until the provisioner writes again.
        return {DynaKubeName(row["name"]): DesiredState(**row) for row in rows} or read_copy(self._copy)


def read_copy(copy: Path) -> dict[DynaKubeName, DesiredState]:
    """Return the rows of the copy; none if it is unreadable."""
    try:
        rows = json.loads(copy.read_text())
        return {DynaKubeName(row["name"]): DesiredState(**row) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def replace_all(metadata: database.Database, copy: Path, wanted: Iterable[DesiredState]) -> None:
    """Make the table and its copy hold exactly these rows (the provisioner's side)."""
    rows = [dataclasses.asdict(row) for row in wanted]
    fresh = copy.with_name(f"{copy.name}.new")
    fresh.write_text(json.dumps(rows))
    fresh.rename(copy)
    with metadata.transaction() as connection:
        connection.execute(statements.DROP_DYNAKUBES)
        connection.executemany(statements.ADD_DYNAKUBE, rows)
