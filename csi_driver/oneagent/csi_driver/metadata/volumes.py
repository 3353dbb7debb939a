"""The server's volumes in memory, written through to the `volumes` and `notices` tables.

The server is the only writer of these tables, so its memory is always the newest; the table survives a restart. A
failed write stays marked and is repeated later: a mount waits for one busy time-out at most, and not at all while the
database is known to be unavailable.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from oneagent.common import logs
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata import database, statements

log = logging.getLogger(__name__)

NOTICES_KEPT_SECONDS: Final = 24 * 3600.0
RETRY_SECONDS: Final = 0.5
LATER_SECONDS: Final = 0.03


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """One row of the volumes table; see `models.VolumeRow`."""

    id: VolumeId
    mode: str
    dynakube: str
    target: str
    state: str
    tenant: str = ""
    version: str = ""
    layer: str = ""
    read_only: bool = False
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    attempts: int = 0
    first_failed_at: float = 0.0
    reason: str = ""
    changed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for an Event of the pod. `kind` is Kubernetes' type: Normal or Warning."""

    kind: str
    reason: str
    message: str
    dynakube: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    at: float


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(VolumeRecord))


class VolumeRepository:
    """All volumes of this node, by id. Thread-safe."""

    def __init__(self, metadata: database.Database, now: Callable[[], float] = time.time) -> None:
        self._database = metadata
        self._now = now
        self._guard = threading.Lock()
        self._records: dict[VolumeId, VolumeRecord] = {}
        self._unwritten: set[VolumeId] = set()
        self._notices: deque[Notice] = deque(maxlen=10_000)
        self._unavailable = False
        self._unread = False
        """The table was unreadable at the start, so it may have rows that are not in memory."""
        self._foreign = False
        """The table's rows are not ours: its file was replaced."""
        self._pending = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None

    def load(self) -> None:
        """Load the table into memory; with an unreadable database it starts empty."""
        self._unread = True
        try:
            self._read()
        except database.DatabaseUnavailableError as error:
            log.error("volumes table not readable, started without it", extra=logs.fields(error=error))
            self._unavailable = True
            self._pending.set()

    def _read(self) -> None:
        """Load the rows of volumes without a request since the start."""
        with self._database.reading() as connection:
            rows = [VolumeRecord(**row) for row in connection.execute(statements.SELECT_VOLUMES)]
        with self._guard:
            for row in rows:
                current = self._records.get(row.id)
                if current is None and row.id not in self._unwritten:
                    self._records[row.id] = row
                elif current is not None and not current.dynakube and current.version == row.version:
                    # Adopted from the mount table, which names neither pod nor DynaKube.
                    merged = dataclasses.replace(row, target=current.target, state=current.state)
                    self._records[row.id] = dataclasses.replace(merged, attempts=0, first_failed_at=0.0, reason="")
            self._unread = False

    def start(self) -> None:
        """Start the background writer."""
        self._writer = threading.Thread(target=self._write_later, name="metadata", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write the unwritten rows, if the database is available."""
        self._closing.set()
        self._pending.set()
        if self._writer is not None:
            self._writer.join()
        self.flush()

    def get(self, volume: VolumeId) -> VolumeRecord | None:
        return self._records.get(volume)

    def all(self) -> list[VolumeRecord]:
        with self._guard:
            return list(self._records.values())

    def put(self, record: VolumeRecord, *notices: Notice, later: bool = False) -> VolumeRecord:
        """Store a volume and write it, at once if possible.

        With `later` the next write includes it, or `write_soon`: for rows that a crash can't lose, as they are
        recovered from the mount table.
        """
        with self._guard:
            self._records[record.id] = record
            self._unwritten.add(record.id)
            self._notices.extend(notices)
        if not later:
            self._write()
        return record

    def write_soon(self) -> None:
        """Let the background thread write the rows of `later` within `LATER_SECONDS`."""
        self._pending.set()

    def drop(self, volume: VolumeId) -> None:
        """Remove a volume."""
        with self._guard:
            if self._records.pop(volume, None) is None and not self._unread:
                return
            self._unwritten.add(volume)
        self._write()

    def rewrite(self) -> None:
        """Mark everything unwritten: the database's file was replaced."""
        with self._guard:
            self._foreign = True
            self._unwritten.update(self._records)
        self._pending.set()

    @property
    def unwritten(self) -> int:
        """The number of volumes whose row is out of date; 0 in a healthy system."""
        return len(self._unwritten)

    def flush(self) -> bool:
        """Write all unwritten rows; return whether that succeeded."""
        pending: list[VolumeId] = []
        notices: list[Notice] = []

        foreign = False

        def collect() -> list[database.Change]:
            nonlocal foreign
            with self._guard:
                foreign, self._foreign = self._foreign, False
                pending.extend(self._unwritten)
                notices.extend(self._notices)
                rows = [(volume, self._records.get(volume)) for volume in pending]
                self._unwritten.clear()
                self._notices.clear()
            changes = _changes(rows, notices, self._now())
            return [(statements.DROP_VOLUMES, {}), *changes] if foreign else changes

        try:
            if self._unread:
                self._read()
            self._database.write(collect)
        except Exception as error:
            with self._guard:
                self._foreign |= foreign
                self._unwritten.update(pending)
                self._notices.extendleft(reversed(notices))
            if not isinstance(error, database.DatabaseUnavailableError):
                raise
            if not self._unavailable:
                log.error("metadata write failed, rows stay in memory", extra=logs.fields(error=error))
            self._unavailable = True
            self._pending.set()
            return False
        if self._unavailable:
            self._unavailable = False
            # Rows stored since `collect` are left to the background thread.
            self._pending.set()
            log.info("metadata written again")
        return True

    def _write(self) -> None:
        # While the database is known to be unavailable, only the background thread tries, so that no call waits twice.
        if not self._unavailable:
            self.flush()

    def _write_later(self) -> None:
        while not self._closing.is_set():
            self._pending.wait()
            self._closing.wait(RETRY_SECONDS if self._unavailable else LATER_SECONDS)
            self._pending.clear()
            try:
                self.flush()
            except Exception:
                log.exception("metadata write failed, retrying")
                self._pending.set()
                self._closing.wait(RETRY_SECONDS)


def _changes(
    rows: Iterable[tuple[VolumeId, VolumeRecord | None]], notices: Iterable[Notice], now: float
) -> list[database.Change]:
    changes: list[database.Change] = [
        (statements.DROP_VOLUME, {"volume": volume})
        if record is None
        else (statements.PUT_VOLUME, {name: getattr(record, name) for name in _FIELDS})
        for volume, record in rows
    ]
    for notice in notices:
        changes.append((statements.ADD_NOTICE, dataclasses.asdict(notice)))
        changes.append((statements.DROP_OLD_NOTICES, {"before": now - NOTICES_KEPT_SECONDS}))
    return changes
