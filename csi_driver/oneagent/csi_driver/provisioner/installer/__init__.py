"""The install queue: each version once, several at a time, from its source into the store.

    download to tmp/ (resumable, hashed) → read → make room → unpack → sync → manifest → prepare → rename

Packages are read and unpacked by a child process without rights, see `unpacker`.

`prepare` gets the finished tree just before it becomes visible, so that a publish that waits for the version finds its
configuration as soon as it wakes. A failed install is retried after a back-off with jitter, not before the source's
`Retry-After`, and from the next DynaKube that uses the version. Other installs continue meanwhile: a source has one
place, and slow ones take no place from others.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from oneagent.common import backoff, logs, unpack
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import client as http_client
from oneagent.common.http import download, exchange
from oneagent.common.identifiers import StoreKey, Version
from oneagent.common.kubernetes import errors as api_errors
from oneagent.common.kubernetes import types
from oneagent.common.tenant import poll
from oneagent.common.tenant.slots import Slot, Slots
from oneagent.csi_driver import store
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import limits, process, tree_walker
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import download_files, package_sources
from oneagent.csi_driver.provisioner.garbage_collector import NoSpaceError
from oneagent.csi_driver.provisioner.installer.fetch import Fetcher, InstallRequest, RetryState, SpaceMaker
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources.package_source import Package
from oneagent.csi_driver.provisioner.unpacker.messages import Existing
from oneagent.csi_driver.provisioner.unpacker.process import Unpacker
from oneagent.csi_driver.store import config_layers, demand, mount_points, store_key

log = logging.getLogger(__name__)

MAX_PARALLEL: Final = 3
JITTER_SECONDS: Final = 45.0
"""Default: with the way to 5,000 nodes, 99 % of them have a small package within a minute."""
_PATIENCE_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2.0
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 300.0
_SILENT_FORBIDDEN: Final = 3
"""Refusals to read a Secret, some five seconds, before the install counts as failed: the operator may be late."""
_WRONG_CONTENT_PAUSE: Final = 3600.0
"""The same digest never becomes an agent, but the cause could have been a fault of this node's disk."""
_PACKAGE_LOST: Final = (errno.EIO, errno.ENOENT)

_EXPECTED_ERRORS: Final = (
    download.DownloadError,
    http_client.InvalidSettingsError,
    unpack.PackageError,
    api_errors.ApiError,
    NoSpaceError,
    OSError,
)
"""Errors without a stack trace: the text has the remedy."""


@dataclass(slots=True)
class _Install:
    request: InstallRequest
    cancelled: threading.Event
    task: threading.Thread | None = None
    source: DynaKube | None = None
    """The DynaKube from whose source the running attempt reads."""
    failures: int = 0
    next_at: float = 0.0
    retry: RetryState = field(default_factory=RetryState)


class VersionPreparer(Protocol):
    def prepare(self, version: Version, tree: Path) -> None:
        """Write rows and config layers for a version whose tree is complete and not visible yet."""
        ...


class InstallQueue:
    """The versions that are desired and not in the store yet. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installs: dict[StoreKey, _Install] = {}

    def versions(self) -> set[StoreKey]:
        """Return the versions whose files must stay."""
        with self.lock:
            return set(self.installs)


class Installer:
    """Thread-safe. `on_change` is called after each attempt, successful or not.

    All nodes of a cluster see a new version at the same time. Each waits a random time of up to `jitter_seconds`
    before its download, or until a pod waits for the version. The time that a request was delayed counts.
    """

    def __init__(
        self,
        data: DataDir,
        agents: store.AgentStore,
        state: ProvisionerState,
        queue: InstallQueue,
        fetcher: Fetcher,
        space: SpaceMaker,
        preparer: VersionPreparer,
        metrics: ProvisionerMetrics,
        on_change: Callable[[], None],
        *,
        unpacker: Unpacker | None = None,
        jitter_seconds: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._data = data
        self._store = agents
        self._state = state
        self._queue = queue
        self.fetcher = fetcher
        self._space = space
        self._preparer = preparer
        self._metrics = metrics
        self._on_change = on_change
        self._unpacker = unpacker or Unpacker()
        self._jitter_seconds = jitter_seconds
        self._now = now
        self._failpoint = failpoint
        self._lock = queue.lock
        self._installs = queue.installs
        self._slots = Slots(MAX_PARALLEL, _PATIENCE_SECONDS)
        self._unpacking = threading.Semaphore(MAX_PARALLEL)

    def set_requests(self, requests: Iterable[InstallRequest]) -> None:
        """Install these versions, and cancel the installs of all others."""
        desired = {request.version: request for request in requests}
        in_demand = demand.list_versions(self._data) if desired else set()
        with self._lock:
            for version, install in list(self._installs.items()):
                if version not in desired:
                    install.cancelled.set()
                    if install.task is None:
                        del self._installs[version]
            for version, request in desired.items():
                if version not in self._installs:
                    start = self._now() + random.uniform(0.0, self._jitter_seconds) - request.delayed_seconds
                    self._installs[version] = _Install(request, threading.Event(), next_at=start)
            # A source that fails again and again is never before one that has not had its turn.
            for version in sorted(desired, key=lambda version: self._installs[version].failures):
                self._start_if_due(self._installs[version], desired[version], version in in_demand)

    def _start_if_due(self, install: _Install, request: InstallRequest, in_demand: bool) -> None:
        if install.task is not None:
            if install.source is not None and not request.has_settings_of(install.source):
                install.cancelled.set()
            return
        if install.failures and install.request.settings != request.settings:
            install.failures, install.next_at = 0, 0.0
        if not install.failures and in_demand:
            install.next_at = 0.0
        if install.next_at > self._now():
            return
        source = request.source(install.failures)
        if (slot := self._slots.acquire(package_sources.server_of(source))) is None:
            return
        install.request, install.source = request, source
        install.cancelled.clear()
        # A daemon: reading a Secret can't be cancelled, and must not keep the process from ending.
        task = threading.Thread(target=self._run, args=(install, slot), name="install", daemon=True)
        install.task = task
        try:
            task.start()
        except RuntimeError:  # A limit of threads: the next reconcile tries again.
            install.task = None
            self._slots.release(slot)
            raise

    def stop(self) -> None:
        """Cancel all installs and wait for them, but not long; the next start resumes their downloads."""
        with self._lock:
            tasks = [install.task for install in self._installs.values() if install.task is not None]
            for install in self._installs.values():
                install.cancelled.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for task in tasks:
            task.join(max(0.0, deadline - time.monotonic()))

    def _run(self, install: _Install, slot: Slot) -> None:
        version = install.request.version
        try:
            with exchange.cancel_scope(install.cancelled):
                self._install(install)
        except Exception as error:  # noqa: BLE001 - any install is retried
            self._failed(install, error)
        else:
            with self._lock:
                self._installs.pop(version, None)
        finally:
            self._slots.release(slot)
            install.task = None
            process.release_memory()
            self._on_change()

    def _failed(self, install: _Install, error: Exception) -> None:
        version = install.request.version
        if isinstance(error, (download.DownloadCancelledError, unpack.UnpackCancelledError)):
            # In this order: as soon as it is popped, another install of the version may begin.
            self._state.drop_version(version)
            with self._lock:
                self._installs.pop(version, None)
            return
        install.failures += 1
        pause = _pause(install, error)
        install.next_at = self._now() + pause
        expected = isinstance(error, _EXPECTED_ERRORS)
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "install failed",
            exc_info=None if expected else error,
            extra=logs.fields(version=version, reason=error, retry_seconds=round(pause, 1)),
        )
        if isinstance(error, api_errors.ForbiddenError) and install.failures <= _SILENT_FORBIDDEN:
            self._state.put_version(version, VersionState.PENDING, message=str(error))
            return
        self._metrics.installs.labels(_result(error)).inc()
        # The text of an error that nobody has expected may have anything in it.
        message = str(error) if expected else f"internal error ({type(error).__name__}): see the provisioner's log"
        if pause > LONGEST_PAUSE:
            # Shorter ones are not told, since a new text is a new Event.
            message += f"; next try at {types.timestamp(time.time() + pause)}"
        self._state.put_version(version, VersionState.FAILED, message=message)

    def _install(self, install: _Install) -> None:
        version = install.request.version
        if self._store.has(version):
            return
        started = time.perf_counter()
        package = self.fetcher.fetch(install.request, install.failures, install.retry, install.cancelled)
        self._failpoint("downloaded")
        try:
            with self._unpacking:
                size = self._unpack_with_room(install, package)
        except unpack.PackageError as error:
            if _is_package_lost(error):
                self.fetcher.discard(install.retry, package)
            if _is_node_fault(error):
                raise
            self.fetcher.reject(install.retry, package, error)
            raise
        download_files.delete(self._data, version)
        demand.clear(self._data, version)
        self._failpoint("renamed")
        self._finish(version, package, size, time.perf_counter() - started)

    def _unpack_with_room(self, install: _Install, package: Package) -> int:
        """Unpack; while the disk is full by whatever limit, remove unused versions and try again."""
        while True:
            try:
                return self._unpack(install, package)
            except (unpack.UnpackFailedError, OSError) as error:
                if error.errno not in limits.NO_SPACE:
                    raise
                if not self._space.evict():
                    cause = OSError(error.errno, "", str(self._data.tmp))
                    raise NoSpaceError(
                        f"{error}: {limits.explain_file(cause)}; every version in the store is in use or desired"
                    ) from error
                log.info("disk full, unused version removed", extra=logs.fields(reason=error))

    def _unpack(self, install: _Install, package: Package) -> int:
        """Unpack the package and add it to the store; return its size there."""
        version = install.request.version

        def cancelled() -> bool:
            self._failpoint("unpacking")
            return install.cancelled.is_set()

        self._state.put_version(version, VersionState.UNPACKING)
        scratch = self._data.tmp / f"{version}.tree"
        tree_walker.remove_if_possible(scratch)
        try:
            unpacking = time.perf_counter()
            existing = [
                Existing(self._data.agent(stored), str(self._data.manifest(stored)))
                for stored in self._store.versions()
            ]
            unpacked = self._unpacker.unpack(
                *(package.content, scratch, existing),
                cancelled=cancelled,
                make_room=self._space.make_room,
                # The other places may need as much at the same time.
                free_bytes=self._space.free_bytes(self._data.tmp) // MAX_PARALLEL,
            )
            config_layers.read_config(unpacked.root)
            self._metrics.shared_bytes.inc(unpacked.shared_bytes)
            self._metrics.unpack_seconds.observe(time.perf_counter() - unpacking)
            self._failpoint("unpacked")
            unpacked.store_manifest(self._data.manifest(version))
            self._failpoint("manifest written")
            self._preparer.prepare(version, unpacked.root)
            with contextlib.suppress(OSError):  # The agent is complete without; the pods that need them are refused.
                mount_points.ensure(unpacked.root)
            self._failpoint("prepared")
            self._store.add(version, unpacked.root)
        finally:
            tree_walker.remove_if_possible(scratch)
        return unpacked.unpacked_bytes

    def _finish(self, version: Version, package: Package, size: int, seconds: float) -> None:
        self._state.put_installed(version, size)
        self._failpoint("row ready")
        self._metrics.installs.labels("ok").inc()
        self._metrics.store_bytes.labels(*store_key.split(version)).set(size)
        log.info(
            "version installed",
            extra=logs.fields(
                version=version,
                package_bytes=package.size,
                bytes=size,
                sha256=package.sha256,
                seconds=round(seconds, 2),
            ),
        )


def _pause(install: _Install, error: Exception) -> float:
    """Return the seconds until the next attempt."""
    is_wrong = isinstance(error, unpack.PackageError) and not _is_node_fault(error)
    # A process may also end because the node lacks memory.
    if install.request.is_content_addressed and is_wrong and not isinstance(error, unpack.UnpackProcessError):
        return _WRONG_CONTENT_PAUSE
    first, longest = FIRST_PAUSE, LONGEST_PAUSE
    if isinstance(error, api_errors.ForbiddenError):
        first, longest = poll.FIRST_FORBIDDEN_PAUSE, poll.LONGEST_FORBIDDEN_PAUSE
    pause = backoff.exponential(install.failures, first, longest)
    return backoff.at_least(pause, getattr(error, "retry_after", None))


def _is_node_fault(error: unpack.PackageError) -> bool:
    """Return True if the node is the cause, and not the package."""
    return isinstance(error, (unpack.UnpackFailedError, unpack.UnpackCancelledError))


def _is_package_lost(error: unpack.PackageError) -> bool:
    """Return True if a part of the package may be gone from the disk: a retry with it would fail in the same way."""
    return isinstance(error, unpack.UnpackFailedError) and error.errno in _PACKAGE_LOST


def _result(error: Exception) -> str:
    """Return the value of the metric's label `result`."""
    if isinstance(error, (NoSpaceError, download.DiskFullError)) or getattr(error, "errno", None) in limits.NO_SPACE:
        return "no_space"
    if isinstance(error, unpack.PackageError):
        return "bad_package"
    if isinstance(error, (download.DownloadError, http_client.InvalidSettingsError, api_errors.ApiError)):
        return "download_failed"
    return "error"
