"""The scrubber: reads each stored version again from time to time, and removes it from the store if it is corrupt.

A scrub may take hours, at a rate that no disk notices, and gives back the page cache. A version's last successful scrub
is its file manifest's modification time, so a restart begins no scrub again. A version without a manifest cannot be
verified and stays.

A corrupt version is removed under the same locks as garbage (see `corruption_log` for running pods). It is then
missing, and is installed again from its source. Versions that share a corrupt file with it, by a hard link, are removed
too, so that the new one is not linked to the corrupt file.

    read → corruption log → version into the trash → row
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.identifiers import Version, agent_version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.store import AgentStore, StoreBusyError, corruption_log, integrity
from oneagent.csi_driver.store.corruption_log import Corruption
from oneagent.csi_driver.store.integrity import IntegrityReport

log = logging.getLogger(__name__)

_MAX_DELAY_SECONDS: Final = 60.0
"""Longest delay of a scrub that is due."""
_TOLERANCE_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 0.1
_FILE_PROBLEMS: Final = {"content", "size", "mode", "unreadable"}
"""Problems of a file itself, so of all its hard links."""


@dataclass(frozen=True, slots=True)
class ScrubSettings:
    """The read rate, 0 for no scrubs, and the interval between two scrubs of a version."""

    bytes_per_second: int = 5 << 20
    interval_seconds: float = 86400.0


class Scrubber:
    """`run` needs a thread of its own. `on_corrupt` is called with each removed version and the reason."""

    def __init__(
        self,
        data: DataDir,
        store: AgentStore,
        state: ProvisionerState,
        metrics: ProvisionerMetrics,
        settings: ScrubSettings,
        *,
        decision_lock: contextlib.AbstractContextManager[object],
        on_corrupt: Callable[[Version, str], None],
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._data = data
        self._store = store
        self._state = state
        self._metrics = metrics
        self._settings = settings
        self._decision_lock = decision_lock
        self._on_corrupt = on_corrupt
        self._now = now
        self._failpoint = failpoint
        self._unverified: dict[Version, float] = {}
        metrics.corrupt_versions.set_function(lambda: len(corruption_log.list_versions(data)))

    def run(self, stop: threading.Event) -> None:
        """Scrub the versions that are due, one after the other, until stopped."""
        if not self._settings.bytes_per_second:
            return
        while not stop.is_set():
            try:
                if (version := self.due()) is not None:
                    self.scrub(version, stop)
            except Exception:
                log.exception("scrub failed")
            stop.wait(min(_MAX_DELAY_SECONDS, max(_RETRY_SECONDS, self._settings.interval_seconds)))

    def due(self) -> Version | None:
        """Return the version with the oldest scrub, if it is due; otherwise None."""
        scrubbed = {version: self._scrubbed_at(version) for version in self._store.versions()}
        version = min(scrubbed, key=lambda version: scrubbed[version], default=None)
        if version is None or self._now() - scrubbed[version] < self._settings.interval_seconds:
            return None
        return version

    def scrub(self, version: Version, stop: threading.Event) -> IntegrityReport | None:
        """Verify a version; None if it was stopped, or if the version left the store meanwhile."""
        tree = self._identity(version)

        def cancelled() -> bool:
            return stop.is_set() or self._identity(version) != tree

        rate = self._settings.bytes_per_second or None
        for report in integrity.check(self._data, [version], bytes_per_second=rate, cancelled=cancelled):
            if cancelled() or report.state == integrity.State.MISSING:
                return None
            if report.state == integrity.State.CORRUPT and not self._remove_corrupt(report, tree, stop):
                return None
            if report.state == integrity.State.UNVERIFIED:
                self._unverified[version] = self._now()
                log.warning(
                    "version not verified, it has no manifest",
                    extra=logs.fields(version=version, reason=report.message),
                )
            if report.state == integrity.State.OK:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._data.manifest(version), (self._now(), self._now()))
                log.info("version verified", extra=logs.fields(version=version, bytes=report.bytes))
            self._metrics.checks.labels(report.state.value).inc()
            return report
        return None

    def _scrubbed_at(self, version: Version) -> float:
        try:
            verified = self._data.manifest(version).stat().st_mtime
        except OSError:
            verified = 0.0
        if verified > self._now() + _TOLERANCE_SECONDS:
            verified = 0.0  # The wall clock was wrong when the manifest was written.
        return max(verified, self._unverified.get(version, 0.0))

    def _identity(self, version: Version) -> int | None:
        """Return a tree's inode, to tell it from a later one of the same name; None without a tree."""
        try:
            return os.stat(self._data.agent(version)).st_ino
        except OSError:
            return None

    def _remove_corrupt(self, report: IntegrityReport, tree: int | None, stop: threading.Event) -> bool:
        """Remove the version, and those that share its corrupt files, from the store; False if it was gone."""
        version, reason = Version(report.name), integrity.summarize(report)
        while not stop.is_set():
            try:
                with self._decision_lock, self._store.removal():
                    if self._identity(version) != tree:
                        return False
                    removed = {version: reason} | dict.fromkeys(
                        self._find_sharing(report), f"shared with {agent_version(version)}: {reason}"
                    )
                    for affected, message in removed.items():
                        self._discard(affected, message)
                break
            except StoreBusyError:
                stop.wait(_RETRY_SECONDS)
        else:
            return False
        for affected, message in removed.items():
            self._state.put_version(affected, VersionState.CORRUPT, message=message)
            log.error("corrupt version removed", extra=logs.fields(version=affected, reason=message))
            self._on_corrupt(affected, message)
        return True

    def _discard(self, version: Version, message: str) -> None:
        corruption_log.record(self._data, version, Corruption(time.time(), message))
        self._failpoint("corruption recorded")
        self._store.remove(version)
        self._failpoint("corrupt version in the trash")

    def _find_sharing(self, report: IntegrityReport) -> list[Version]:
        """Return the other versions that contain one of its corrupt files, by inode."""
        own = Version(report.name)
        changed = [finding.path for finding in report.findings if finding.problem in _FILE_PROBLEMS]
        files = _find_hard_links(Path(self._data.agent(own), path) for path in changed)
        if not files:
            return []
        others = [version for version in self._store.versions() if version != own]
        return [version for version in others if not files.isdisjoint(_find_hard_links(self._files(version)))]

    def _files(self, version: Version) -> Iterable[Path]:
        for above, _, names in os.walk(self._data.agent(version)):
            for name in names:
                yield Path(above, name)


def _find_hard_links(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Return the files with more than one hard link."""
    report = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                report.add((status.st_dev, status.st_ino))
    return report
