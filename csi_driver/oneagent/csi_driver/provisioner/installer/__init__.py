"""Installs: a wanted version's way from its source into the store, each version once, several at a time.

    stream to tmp/ (resumable, hashed) → read → room on the disk? → unpack → sync → manifest → prepare → rename

`prepare` is called with the finished tree just before it becomes visible, so that a publish that waits for the
version finds its configuration in place the moment it wakes. A failed install is tried again after a back-off
with jitter, not before the tenant's `Retry-After`, and from the next DynaKube that wants the version, if there are
several; other versions go on meanwhile. A mirror, if there is one, is asked before the tenant.
"""

from __future__ import annotations

import errno
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import backoff, logs, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.kubernetes import errors as api_errors
from oneagent.csi_driver import store
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import startup_cleanup
from oneagent.csi_driver.provisioner.installer import fetch
from oneagent.csi_driver.provisioner.installer.fetch import Request
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror
from oneagent.csi_driver.provisioner.package_sources.supplies import Package
from oneagent.csi_driver.provisioner.room import NoSpaceError, Room
from oneagent.csi_driver.store import demand, usage

log = logging.getLogger(__name__)

AT_ONCE: Final = 3
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 300.0
_HOPELESS_PAUSE: Final = 3600.0
"""What is no agent will not become one; but the reason could still have been a fault of this node's disk."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_LOST: Final = (errno.EIO, errno.ENOENT)


_KNOWN: Final = (
    download.DownloadError,
    http_client.InvalidSettingsError,
    unpack.PackageError,
    api_errors.ApiError,
    NoSpaceError,
    OSError,
)
"""What needs no stack trace: its text says what to do."""


@dataclass(slots=True)
class _Install:
    request: Request
    cancelled: threading.Event
    running: bool = False
    failures: int = 0
    next_at: float = 0.0
    kept: fetch.Kept = field(default_factory=fetch.Kept)


class Installer:
    """Thread-safe. `changed` is called after each install, whatever became of it.

    All nodes of a cluster learn of a version at the same time. Each begins some time within `spread_seconds` after
    it, or as soon as a pod waits for the version.
    """

    def __init__(
        self,
        folder: DataDir,
        agents: store.AgentStore,
        records: ProvisionerState,
        room: Room,
        metrics: ProvisionerMetrics,
        changed: Callable[[], None],
        *,
        threads: int | None = None,
        mirror: Mirror | None = None,
        spread_seconds: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._folder = folder
        self._store = agents
        self._records = records
        self._room = room
        self._metrics = metrics
        self._changed = changed
        self._threads = threads
        self._spread_seconds = spread_seconds
        self.fetcher = fetch.Fetcher(folder, records, room, metrics, mirror, changed, failpoint)
        self._now = now
        self._failpoint = failpoint
        self._guard = threading.Lock()
        self._installs: dict[Version, _Install] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="install")

    @property
    def busy(self) -> set[Version]:
        """Versions that are wanted here and not yet in the store: nothing of theirs may be removed."""
        with self._guard:
            return set(self._installs)

    def want(self, requests: list[Request]) -> None:
        """Install these and no others: what runs for a version that is not among them any more is cancelled."""
        wanted = {request.version: request for request in requests}
        in_demand = demand.list_versions(self._folder) if wanted else set()
        with self._guard:
            for version, install in list(self._installs.items()):
                if version not in wanted:
                    install.cancelled.set()
                    if not install.running:
                        del self._installs[version]
            for version, request in wanted.items():
                if version not in self._installs:
                    start = self._now() + random.uniform(0.0, self._spread_seconds)
                    self._installs[version] = _Install(request, threading.Event(), next_at=start)
                install = self._installs[version]
                if install.running:
                    continue
                if install.failures and install.request.settings != request.settings:
                    install.failures, install.next_at = 0, 0.0
                if not install.failures and version in in_demand:
                    install.next_at = 0.0
                if install.next_at > self._now():
                    continue
                install.request, install.running = request, True
                install.cancelled.clear()
                self._pool.submit(self._run, install)

    def stop(self) -> None:
        """Cancel everything and wait for it; what was downloaded is resumed after the next start."""
        with self._guard:
            for install in self._installs.values():
                install.cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, install: _Install) -> None:
        version = install.request.version
        try:
            self._install(install)
        except Exception as error:  # noqa: BLE001 - whatever it is, the install is tried again
            self._failed(install, error)
        else:
            with self._guard:
                self._installs.pop(version, None)
        finally:
            install.running = False
            self._changed()

    def _failed(self, install: _Install, error: Exception) -> None:
        version = install.request.version
        if isinstance(error, (download.DownloadCancelledError, unpack.UnpackCancelledError)):
            # In this order: as soon as it is popped, another install of the version may begin.
            self._records.drop_version(version)
            with self._guard:
                self._installs.pop(version, None)
            return
        install.failures += 1
        pause = _pause(install, error)
        install.next_at = self._now() + pause
        known = isinstance(error, _KNOWN)
        log.log(
            logging.WARNING if known else logging.ERROR,
            "install failed",
            exc_info=None if known else error,
            extra=logs.facts(version=version, reason=error, retry_seconds=round(pause, 1)),
        )
        self._metrics.installs.labels(_kind(error)).inc()
        self._records.put_version(version, VersionState.FAILED, message=str(error) if known else "internal error")

    def _install(self, install: _Install) -> None:
        version = install.request.version
        if self._store.has(version):
            return
        started = time.perf_counter()
        package = self.fetcher.fetch(install.request, install.failures, install.kept, install.cancelled)
        self._failpoint("downloaded")
        try:
            size = self._unpack(install, package)
        except unpack.PackageError as error:
            if _lost(error):
                self.fetcher.forget(install.kept, package)
            if _transient(error):
                raise
            self.fetcher.spoilt(install.kept, package, error)
            raise
        startup_cleanup.drop_packages(self._folder, version)
        demand.clear(self._folder, version)
        self._failpoint("renamed")
        self._done(version, package, size, time.perf_counter() - started)

    def _unpack(self, install: _Install, package: Package) -> int:
        """Unpack the package and put it into the store; the bytes it takes there."""
        request, version = install.request, install.request.version

        def cancelled() -> bool:
            self._failpoint("unpacking")
            return install.cancelled.is_set()

        self._records.put_version(version, VersionState.UNPACKING)
        scratch = self._folder.tmp / f"{version}.tree"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            unpacking = time.perf_counter()
            agent = package.read(cancelled)
            self._room.make(agent.unpacked_size)
            present = usage.present(self._folder, self._store)
            unpacked = agent.unpack(scratch, threads=self._threads, cancelled=cancelled, existing=present)
            self._metrics.shared_bytes.inc(present.shared_bytes)
            self._metrics.unpack_seconds.observe(time.perf_counter() - unpacking)
            unpacked.make_durable()
            self._failpoint("unpacked")
            unpacked.manifest.dump(self._folder.manifest(version))
            self._failpoint("manifest written")
            request.prepare(version, unpacked.root)
            self._failpoint("prepared")
            self._store.add(version, unpacked.root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return unpacked.unpacked_bytes

    def _done(self, version: Version, package: Package, size: int, seconds: float) -> None:
        self._records.put_version(
            version, VersionState.READY, size_bytes=size, installed_at=time.time(), last_used_at=time.time()
        )
        self._failpoint("row ready")
        self._metrics.installs.labels("ok").inc()
        self._metrics.store_bytes.labels(version).set(size)
        log.info(
            "version installed",
            extra=logs.facts(
                version=version,
                package_bytes=package.size,
                bytes=size,
                sha256=package.sha256,
                seconds=round(seconds, 2),
            ),
        )


def _pause(install: _Install, error: Exception) -> float:
    """Seconds until the next try."""
    if install.request.fixed and isinstance(error, unpack.PackageError) and not _transient(error):
        return _HOPELESS_PAUSE
    pause = backoff.exponential(install.failures, FIRST_PAUSE, LONGEST_PAUSE)
    return backoff.at_least(pause, getattr(error, "retry_after", None))


def _transient(error: unpack.PackageError) -> bool:
    """Whether this machine is the reason, and not the package."""
    return isinstance(error, (unpack.UnpackFailedError, unpack.UnpackCancelledError))


def _lost(error: unpack.PackageError) -> bool:
    """Whether the package may be gone from the disk, or a part of it: another try with it would fail like this one."""
    return isinstance(error, unpack.UnpackFailedError) and error.errno in _LOST


def _kind(error: Exception) -> str:
    if isinstance(error, (NoSpaceError, download.DiskFullError)) or getattr(error, "errno", None) in _NO_SPACE:
        return "no_room"
    if isinstance(error, unpack.PackageError):
        return "bad_package"
    if isinstance(error, (download.DownloadError, http_client.InvalidSettingsError, api_errors.ApiError)):
        return "download_failed"
    return "error"
