"""Decisions about the node's desired state, one at a time.

The planner stores the DynaKubes of the source's last report. It computes the rows, writes them, and prepares them
for a version that is about to be stored. `decision_lock` is held during each decision about what is desired, and by the
garbage collector during each decision about what may be removed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, StoreKey, Version
from oneagent.common.tenant.image_resolver import SignatureStore
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.dynakube_sources import Snapshot
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.provisioner import desired_state, package_sources
from oneagent.csi_driver.provisioner.installer.fetch import InstallRequest
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from oneagent.csi_driver.store import AgentStore, config_layers, demand


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of one decision."""

    dynakubes: tuple[DynaKube, ...]
    """DynaKubes with views or a host directory on this node."""
    rows: Mapping[DynaKubeName, DesiredState]
    requests: tuple[InstallRequest, ...]


class Planner:
    """Thread-safe."""

    def __init__(
        self,
        data: DataDir,
        store: AgentStore,
        state: ProvisionerState,
        poller: TenantPoller,
        signatures: SignatureStore,
    ) -> None:
        self._data = data
        self._store = store
        self._state = state
        self._poller = poller
        self._signatures = signatures
        self.decision_lock = threading.RLock()
        self.snapshot: Snapshot | None = None
        """The last report of the source; None before the first."""

    def dynakube_names(self) -> Iterable[str] | None:
        """Return the names of all existing DynaKubes, valid or not; None while it is not known what they want.

        That is before the first report, and until the source of each was asked once: after a loss of power the rows may
        be older than the store, and only DynaKubes and their sources tell which versions are still desired.
        """
        snapshot = self.snapshot
        if snapshot is None or any(
            kube.needs_views and self._poller.state(kube.name) is None for kube in snapshot.dynakubes.values()
        ):
            return None
        return {*snapshot.dynakubes, *snapshot.invalid}

    def plan(self, snapshot: Snapshot) -> Plan:
        """Start the polls that are due, compute the rows, write them, and find the missing versions."""
        dynakubes = [each for each in snapshot.dynakubes.values() if each.needs_views or each.needs_host_directory]
        awaited = demand.list_versions(self._data)
        for dynakube in dynakubes:
            if dynakube.needs_views:
                row = self._state.desired.get(dynakube.name)
                awaits = demand.of_dynakube(dynakube.name) if row is None or not row.version else row.version
                self._poller.poll_if_due(dynakube, pod_waits=awaits in awaited)
        self._poller.retain(snapshot.dynakubes)
        inputs = self._inputs(dynakubes)
        rows = desired_state.find_desired(dynakubes, inputs, self._write_layer)
        with_version = {demand.of_dynakube(row.name) for row in rows.values() if row.version}
        complete = inputs.trees.keys() - {row.version for row in rows.values() if not row.layer}
        for marker in awaited & (with_version | complete):
            demand.clear(self._data, marker)  # The versions that pods waited for are there.
        self._state.set_desired([*rows.values(), *self._rows_of_invalid(snapshot)])
        return Plan(tuple(dynakubes), rows, tuple(desired_state.find_missing(dynakubes, rows, inputs)))

    def report_failure(self, error: Exception) -> None:
        """Show in the rows of all DynaKubes that no decision was made; versions stay as they are."""
        with self.decision_lock:
            condition = desired_state.explain_internal_error(error)
            rows = {row.name: row for row in self._state.desired.values()}
            for name in self.snapshot.dynakubes if self.snapshot else ():
                rows.setdefault(name, DesiredState(name))
            self._state.set_desired([replace(row, condition=condition) for row in rows.values()])

    def prepare(self, version: Version, tree: Path) -> None:
        """Write rows and config layers for a version whose tree is complete and not visible yet."""
        with self.decision_lock:
            if self.snapshot is None:
                return
            dynakubes = [dynakube for dynakube in self.snapshot.dynakubes.values() if dynakube.needs_views]
            inputs = self._inputs(dynakubes, {version: tree})
            rows = desired_state.find_desired(dynakubes, inputs, self._write_layer)
            self._state.set_desired((dict(self._state.desired) | rows).values())

    def _inputs(
        self, dynakubes: Iterable[DynaKube], arriving: Mapping[Version, Path] | None = None
    ) -> desired_state.Inputs:
        tenants: dict[DynaKubeName, TenantState] = {}
        contents: dict[DynaKubeName, StoreKey] = {}
        waiting: dict[DynaKubeName, str] = {}
        delays: dict[DynaKubeName, float] = {}
        for dynakube in dynakubes:
            if (tenant := self._poller.state(dynakube.name)) is not None:
                tenants[dynakube.name] = tenant
                delays[dynakube.name] = self._poller.first_delay_seconds(dynakube.name)
            else:
                waiting[dynakube.name] = self._poller.waits_for(dynakube.name)
            if dynakube.decided_version or dynakube.pinned_version:
                continue
            if key := package_sources.find_kind(dynakube).content_key(dynakube):
                contents[dynakube.name] = key
        stored = [version for version in self._store.versions() if self._store.has(version)]
        return desired_state.Inputs(
            rows=self._state.desired,
            tenants=tenants,
            waiting=waiting,
            delays=delays,
            trees={version: Path(self._data.agent(version)) for version in stored},
            records=self._state.versions,
            contents=contents,
            signatures=self._signatures,
            arriving=arriving or {},
        )

    def _write_layer(self, dynakube: DynaKube, tenant: TenantState, row: DesiredState, tree: Path) -> LayerId:
        """Write the config layer; before everything for it is known, return the one of an earlier process or none."""
        if not tenant.complete:
            has_former = bool(row.layer) and self._data.config_layer(row.tenant, row.layer).exists()
            return row.layer if has_former else LayerId("")
        profile, texts = config_layers.merge_config(tree, dynakube, tenant)
        return config_layers.ensure(self._data, row.tenant, texts, profile)

    def _rows_of_invalid(self, snapshot: Snapshot) -> list[DesiredState]:
        """Return the rows of existing, invalid DynaKubes: all rows after an invalid file, which may contain any."""
        is_any = any(":" in name for name in snapshot.invalid)
        rows = [row for name, row in self._state.desired.items() if name not in snapshot.dynakubes]
        return [row for row in rows if is_any or row.name in snapshot.invalid]
