"""One node: the provisioner's parts that talk to the API server and to tenants, without its store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from oneagent.common import backoff
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, StoreKey, Version, agent_version
from oneagent.common.node_lease import DynaKubeReport
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant.image_resolver import MemorySignatures
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.dynakube_sources import Snapshot
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import desired_state, installer
from oneagent.csi_driver.provisioner.installer.fetch import InstallRequest
from oneagent.csi_driver.provisioner.node_reporter import NodeReporter
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller

FAILING: Final = "1.999."
"""Versions that begin so cannot be installed."""

Record = Callable[[str, str, str], None]
"""Records what a node has: `listed` (DynaKubes), `seen` (a version is desired), `has` (it is there), `token`; the
DynaKube; the value."""


class Node:
    """One thread at a time calls `evaluate` after each wake-up, and `look` every few seconds."""

    def __init__(self, name: str, kubeconfig: Path, wake: Callable[[], None], record: Record) -> None:
        self._wake, self._record = wake, record
        self._source = KubernetesSource(kubeconfig=kubeconfig, namespace="dynatrace", node=name)
        self._signatures = MemorySignatures()
        self._poller = TenantPoller(
            self._source,
            Registries(),
            self._signatures,
            wake,
            operator_wait_seconds=self._source.operator_wait_seconds,
            jitter_seconds=installer.JITTER_SECONDS,
        )
        self._reporter = NodeReporter(self._source, installer.JITTER_SECONDS)
        self._snapshot: Snapshot | None = None
        self._rows: dict[DynaKubeName, DesiredState] = {}
        self._records: dict[Version, VersionRecord] = {}
        self._due: dict[StoreKey, float] = {}
        self._dynakubes = list[DynaKube]()
        self._reports = list[DynaKubeReport]()
        self._failures: dict[StoreKey, int] = {}

    def start(self, stop: threading.Event) -> None:
        threading.Thread(target=self._source.run, args=(self._on_snapshot, stop), daemon=True).start()

    def evaluate(self) -> None:
        """Do what `Provisioner.reconcile` does, without a disk."""
        if (snapshot := self._snapshot) is None:
            return
        self._dynakubes = dynakubes = [each for each in snapshot.dynakubes.values() if each.needs_views]
        for dynakube in dynakubes:
            self._poller.poll_if_due(dynakube)
        self._poller.retain(snapshot.dynakubes)
        inputs = self._inputs(dynakubes)
        self._rows = desired_state.find_desired(dynakubes, inputs, _layer)
        requests = desired_state.find_missing(dynakubes, self._rows, inputs)
        for request in requests:
            self._install(request)
        for name in self._due.keys() - {request.version for request in requests}:
            del self._due[name]
        self._report(dynakubes)

    def look(self) -> None:
        """Do what is due by the clock. On two cores, all of `evaluate` each second is too much for 5,000 nodes."""
        now = time.monotonic()
        if any(now >= due for due in self._due.values()):
            self.evaluate()
            return
        for dynakube in self._dynakubes:
            self._poller.poll_if_due(dynakube)
        if self._snapshot is not None:
            self._reporter.update(self._reports)

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self._record("listed", "", "")
        self._snapshot = snapshot
        self._wake()

    def _inputs(self, dynakubes: list[DynaKube]) -> desired_state.Inputs:
        tenants = {each.name: state for each in dynakubes if (state := self._poller.state(each.name)) is not None}
        ready = [key for key, record in self._records.items() if record.state == VersionState.READY]
        return desired_state.Inputs(
            rows=self._rows,
            tenants=tenants,
            trees={key: Path("/") for key in ready},
            records=self._records,
            contents={},
            signatures=self._signatures,
            delays={each.name: self._poller.first_delay_seconds(each.name) for each in dynakubes},
        )

    def _install(self, request: InstallRequest) -> None:
        """Let a version arrive after the jitter, or fail then and again with the installer's back-off."""
        now, key = time.monotonic(), request.version
        start = now + random.uniform(0.0, installer.JITTER_SECONDS) - request.delayed_seconds
        if now < self._due.setdefault(key, start):
            return
        if not agent_version(key).startswith(FAILING):
            self._records[key] = VersionRecord(key, VersionState.READY)
            self._wake()
            return
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        self._records[key] = VersionRecord(key, VersionState.FAILED, message="GET https://tenant/api/…: 404 Not Found")
        self._due[key] = now + backoff.exponential(failures, installer.FIRST_PAUSE, installer.LONGEST_PAUSE)

    def _report(self, dynakubes: list[DynaKube]) -> None:
        reports = list[DynaKubeReport]()
        for dynakube in dynakubes:
            row, state = self._rows[dynakube.name], self._poller.state(dynakube.name)
            record = self._records.get(row.version)
            reports.append(self._reporter.describe(dynakube, row, record, ""))
            if state is not None and state.tenant_token:
                self._record("token", dynakube.name, state.tenant_token)
            if not row.version:
                continue
            version = agent_version(row.version)
            self._record("seen", dynakube.name, version)
            if record is not None and record.state == VersionState.READY:
                self._record("has", dynakube.name, version)
                if row.layer:
                    self._record("complete", dynakube.name, f"{version} {row.layer}")
        self._reports = reports
        self._reporter.update(reports)


def _layer(_dynakube: DynaKube, state: TenantState, _row: DesiredState, _tree: Path) -> LayerId:
    """Name the config layer by what is in it; '' for one without the tenant's token."""
    return LayerId(state.tenant_token)
