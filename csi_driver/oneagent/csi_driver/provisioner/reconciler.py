"""The provisioner's loop: from DynaKubes and the contents of the disk to the desired state and the work to do.

Level-triggered: each run looks at everything and writes the whole result, so a lost run, a crash or a missed event
costs only time. A run never waits for the network: polls and installs are tasks of their own, and their ends wake the
loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from oneagent.common import agents, backoff, logs
from oneagent.common.dynakube.network_defaults import NO_DEFAULTS, NetworkDefaults
from oneagent.common.identifiers import DynaKubeName, StoreKey, Version
from oneagent.common.node_lease import DynaKubeReport
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux.clock import SteadyClock
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState, VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import desired_state, package_sources
from oneagent.csi_driver.provisioner.event_reporter import EventReporter
from oneagent.csi_driver.provisioner.garbage_collector import GarbageCollector
from oneagent.csi_driver.provisioner.installer import Installer, InstallQueue
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.node_reporter import NodeReporter
from oneagent.csi_driver.provisioner.planner import Plan, Planner
from oneagent.csi_driver.provisioner.scrubber import Scrubber
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from oneagent.csi_driver.store import preload, store_key

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
_SOURCE_RETRY_SECONDS: Final = 5.0
_LONGEST_RETRY_SECONDS: Final = 60.0


class Provisioner:
    """Owns the threads. `run` returns after `stop` is set."""

    def __init__(
        self,
        source: dynakube_sources.DynaKubeSource,
        data: DataDir,
        state: ProvisionerState,
        poller: TenantPoller,
        planner: Planner,
        queue: InstallQueue,
        installer: Installer,
        collector: GarbageCollector,
        scrubber: Scrubber,
        reporter: EventReporter,
        node_reporter: NodeReporter,
        metrics: ProvisionerMetrics,
        clock: SteadyClock,
        *,
        changed: threading.Event,
        gc_seconds: float,
        network_defaults: NetworkDefaults = NO_DEFAULTS,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._source = source
        self._network_defaults = network_defaults
        self._data = data
        self.state = state
        self._poller = poller
        self.planner = planner
        self._queue = queue
        self.installer = installer
        self.collector = collector
        self.scrubber = scrubber
        self._reporter = reporter
        self._node_reporter = node_reporter
        self._metrics = metrics
        self._clock = clock
        self._changed = changed
        self._gc_seconds = gc_seconds
        self._failpoint = failpoint
        self._failures = 0
        """Runs in a row that failed."""

    def wake(self) -> None:
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Reconcile on each change and each second, until stopped."""
        source = threading.Thread(target=self._watch_source, args=(stop,), name="dynakube-source", daemon=True)
        source.start()
        scrubber = threading.Thread(target=self.scrubber.run, args=(stop,), name="scrubber", daemon=True)
        scrubber.start()
        collect_at = reconcile_at = 0.0
        while not stop.is_set():
            self._changed.wait(TICK_SECONDS)
            self._changed.clear()
            if time.monotonic() >= reconcile_at:
                reconcile_at = time.monotonic() + self._reconcile_safely()
            try:
                if time.monotonic() >= collect_at and self.planner.dynakube_names() is not None:
                    collect_at = time.monotonic() + self._gc_seconds
                    if self.collector.collect():
                        self.wake()
            except Exception:
                log.exception("garbage collection failed")
        self._poller.stop()
        self._reporter.stop()
        self.installer.stop()
        scrubber.join(5)
        source.join(5)

    def _reconcile_safely(self) -> float:
        """Reconcile once; return the seconds of back-off after an error, which all DynaKubes' conditions show."""
        try:
            self.reconcile()
        except Exception as error:
            self._failures += 1
            pause = backoff.exponential(self._failures, TICK_SECONDS, _LONGEST_RETRY_SECONDS)
            log.exception("reconcile failed", extra=logs.fields(retry_seconds=round(pause, 1)))
            try:
                self.planner.report_failure(error)
            except Exception:
                log.exception("failure not written")
            return pause
        self._failures = 0
        return 0.0

    def reconcile(self) -> None:
        """Reconcile once. Called from the loop; safe to call from other threads."""
        with contextlib.suppress(OSError):  # A disk that is full or read-only shows where it matters.
            self._data.create()  # The directory may have been emptied under this process.
        self._clock.save()
        snapshot = self.planner.snapshot
        self._reporter.forward_notices(snapshot.dynakubes if snapshot is not None else {})
        if snapshot is None:
            self.state.flush()
            return
        with self.planner.decision_lock:
            plan = self.planner.plan(snapshot)
            preloaded = self._find_preloaded(snapshot)
            self.installer.set_requests(request for request in plan.requests if request.version not in preloaded)
            self._import_preloaded(preloaded, plan)
            self._report(plan)

    def _watch_source(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._source.run(self._on_snapshot, stop)
            except Exception:
                log.exception("DynaKube source failed")
                stop.wait(_SOURCE_RETRY_SECONDS)

    def _on_snapshot(self, snapshot: dynakube_sources.Snapshot) -> None:
        for name, problem in snapshot.newly_invalid(self.planner.snapshot):
            kind = agents.kind_of_object(name)
            log.error("%s ignored, it is invalid", kind, extra=logs.fields(dynakube=name, reason=problem))
        dynakubes = {name: self._network_defaults.apply(kube) for name, kube in snapshot.dynakubes.items()}
        self.planner.snapshot = dataclasses.replace(snapshot, dynakubes=dynakubes)
        self.wake()

    def _find_preloaded(self, snapshot: dynakube_sources.Snapshot) -> dict[StoreKey, preload.Waiting]:
        """Return the preloaded packages whose key is known: a zip's depends on the source of its DynaKube."""
        found: dict[StoreKey, preload.Waiting] = {}
        for waiting in preload.list_waiting(self._data, self._clock.now()):
            origin = waiting.origin
            dynakube = snapshot.dynakubes.get(DynaKubeName(origin.dynakube))
            if origin.image:
                found[store_key.of_image(origin.image)] = waiting
            elif dynakube is not None:
                key = package_sources.key_of_zip(dynakube, Version(origin.version), origin.sha256)
                if key is not None:
                    found[key] = waiting
        return found

    def _import_preloaded(self, preloaded: dict[StoreKey, preload.Waiting], plan: Plan) -> None:
        """Move preloaded versions into the store, unless an install of them is running."""
        unpolled = {
            plan.rows[dynakube.name].version for dynakube in plan.dynakubes if self._poller.state(dynakube.name) is None
        }
        for version, waiting in preloaded.items():
            if version in unpolled or version in self._queue.versions():
                continue
            try:
                size = preload.store_preloaded(self._data, waiting, version, self.planner.prepare, self._failpoint)
            except file_manifest.TreeManifestError as error:
                log.error("preloaded version discarded", extra=logs.fields(version=version, reason=error))
                self._data.discard(waiting.directory)
                continue
            except OSError as error:
                # Like a failed install: it stops no others, and is retried.
                self._fail_import(version, f"it was preloaded and can't be put into the store: {error.strerror}")
                continue
            if size is not None:
                self.state.put_installed(version, size, source="preload")
                log.info("preloaded version stored", extra=logs.fields(version=version, bytes=size))
            self.wake()

    def _fail_import(self, version: Version, reason: str) -> None:
        record = self.state.versions.get(version)
        if record is None or (record.state, record.message) != (VersionState.FAILED, reason):
            log.warning("preloaded version not stored, retrying", extra=logs.fields(version=version, reason=reason))
            self.state.put_version(version, VersionState.FAILED, message=reason)

    def _report(self, plan: Plan) -> None:
        """Report the state of each DynaKube to the operator and in metrics."""
        versions = self.state.versions
        reports = list[DynaKubeReport]()
        # A DynaKube whose pods get no views waits for nothing.
        for dynakube in (dynakube for dynakube in plan.dynakubes if dynakube.needs_views):
            row, tenant = plan.rows[dynakube.name], self._poller.state(dynakube.name)
            # Until the operator has granted the Secret, nothing is refused.
            is_forbidden = tenant is not None and tenant.image.is_forbidden
            refusal = "" if is_forbidden else desired_state.explain_refusal(dynakube, tenant)
            reports.append(self._node_reporter.describe(dynakube, row, versions.get(row.version), refusal))
        self._node_reporter.update(reports)
        rows = [plan.rows[DynaKubeName(report.name)] for report in reports]
        ready = sum(bool(row.layer) and _is_ready(versions.get(row.version)) for row in rows)
        self._metrics.dynakubes.labels("ready").set(ready)
        self._metrics.dynakubes.labels("waiting").set(len(reports) - ready)


def _is_ready(record: VersionRecord | None) -> bool:
    return record is not None and record.state == VersionState.READY
