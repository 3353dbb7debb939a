"""The provisioner's loop: from what DynaKubes say and what is on the disk to what is wanted and what to do.

Level-triggered: each turn looks at everything and states the whole result, so a turn that is lost, a crash or a
missed event costs nothing but time. A turn never waits for the network: tenants are asked and versions are
installed in tasks of their own, whose ends wake the loop.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from oneagent.common import dynakube, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.dynakube.mode import Mode
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.oci.hosts import Registries
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner.event_reporter import EventReporter
from oneagent.csi_driver.provisioner.garbage_collector import GarbageCollector
from oneagent.csi_driver.provisioner.installer import Installer
from oneagent.csi_driver.provisioner.installer.fetch import Request
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources import origins
from oneagent.csi_driver.provisioner.scrubber import Scrubber
from oneagent.csi_driver.provisioner.signature_cache import SignatureCache
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from oneagent.csi_driver.provisioner.tenants import TenantState
from oneagent.csi_driver.store import AgentStore, config_layers, preload

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0


class Provisioner:
    """Owns the loop's thread and the tasks. `run` returns after `stop` is set."""

    def __init__(
        self,
        source: dynakube_sources.DynaKubeSource,
        folder: DataDir,
        store: AgentStore,
        records: ProvisionerState,
        metrics: ProvisionerMetrics,
        *,
        registries: Registries,
        approved: SignatureCache,
        collect_seconds: float,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._store = store
        self._records = records
        self._metrics = metrics
        self._registries = registries
        self._approved = approved
        self._collect_seconds = collect_seconds
        self._failpoint = failpoint
        self._wake = threading.Event()
        self.deciding = threading.RLock()
        """Held while it is decided what is wanted, and while it is decided what may go."""
        self._snapshot: dynakube_sources.Snapshot | None = None
        self._questions = TenantPoller(source, registries, approved, self.wake, now)
        self._announcer = EventReporter(source, records)
        self._archives = origins.Archives()
        self.installer: Installer
        self.collector: GarbageCollector
        self.checks: Scrubber

    def known(self) -> Iterable[str] | None:
        """All DynaKubes that exist, as far as the source has told; None before its first word."""
        snapshot = self._snapshot
        return None if snapshot is None else {*snapshot.dynakubes, *snapshot.invalid}

    def wake(self) -> None:
        self._wake.set()

    def damaged(self, version: Version, message: str) -> None:
        """A version had to leave the store. May be called from any thread."""
        for kube in self._snapshot.dynakubes.values() if self._snapshot else ():
            row = self._records.wanted.get(kube.name)
            if row is not None and row.version == version:
                self._announcer.damaged(kube, version, message)
        self.wake()

    def run(self, stop: threading.Event) -> None:
        """Turn until stopped: when something changes, and each second."""
        watching = threading.Thread(target=self._watch, args=(stop,), name="source", daemon=True)
        watching.start()
        checking = threading.Thread(target=self.checks.run, args=(stop,), name="checks", daemon=True)
        checking.start()
        collect_at = 0.0
        while not stop.is_set():
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            try:
                self.turn()
            except Exception:
                log.exception("turn failed")
                stop.wait(TICK_SECONDS)
            try:
                if time.monotonic() >= collect_at and self._snapshot is not None:
                    collect_at = time.monotonic() + self._collect_seconds
                    if self.collector.collect():
                        self.wake()
            except Exception:
                log.exception("collection failed")
        self._questions.stop()
        self._announcer.stop()
        self.installer.stop()
        checking.join(5)
        watching.join(5)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._source.run(self._changed, stop)
            except Exception:
                log.exception("the source of DynaKubes failed")
                stop.wait(5)

    def _changed(self, snapshot: dynakube_sources.Snapshot) -> None:
        for name, problem in snapshot.newly_invalid(self._snapshot):
            log.error("a DynaKube can't be used", extra=logs.facts(dynakube=name, reason=problem))
        self._snapshot = snapshot
        self.wake()

    def turn(self) -> None:
        """One look at everything. Called from the loop; safe to call from elsewhere."""
        self._announcer.pass_on_notices()
        snapshot = self._snapshot
        if snapshot is None:
            self._records.flush()
            return
        with self.deciding:
            kubes = [kube for kube in snapshot.dynakubes.values() if kube.needs_app_views or kube.needs_host_folder]
            for kube in kubes:
                if kube.needs_app_views:
                    self._questions.ask_if_due(kube)
            self._questions.keep(snapshot.dynakubes)
            rows = self._rows(kubes, {})
            self._records.want([*rows.values(), *self._kept(snapshot)])
            carried_in = preload.waiting(self._folder)
            self.installer.want([ask for ask in self._requests(kubes, rows) if ask.version not in carried_in])
            self._take(carried_in, kubes, rows)
            self._tell(kubes, rows)

    def _kept(self, snapshot: dynakube_sources.Snapshot) -> list[DesiredState]:
        """The rows of DynaKubes that exist and can't be read. Those of a broken file may be any, so all are kept."""
        unnamed = any(":" in name for name in snapshot.invalid)
        rows = [row for name, row in self._records.wanted.items() if name not in snapshot.dynakubes]
        return [row for row in rows if unnamed or row.name in snapshot.invalid]

    # -------------------------------------------------------------------- rows

    def _rows(
        self, kubes: Iterable[dynakube.DynaKube], trees: Mapping[Version, Path]
    ) -> dict[DynaKubeName, DesiredState]:
        """What is wanted; `trees` are versions that will be in the store in a moment."""
        return {kube.name: self._row(kube, trees) for kube in kubes}

    def _row(self, kube: dynakube.DynaKube, trees: Mapping[Version, Path]) -> DesiredState:
        before = self._records.wanted.get(kube.name) or DesiredState(kube.name)
        row = dataclasses.replace(
            before,
            mount_attempts=kube.mount_attempts,
            mount_timeout_seconds=kube.mount_timeout_seconds,
            mount_policy=kube.mount_policy,
            cluster_id=kube.cluster_id,
            host_tenant=kube.mode is Mode.CLOUD_NATIVE_FULL_STACK,
            condition="",
        )
        facts = self._questions.facts(kube.name)
        if not kube.needs_app_views:
            return dataclasses.replace(_without_good(row), version=Version(""), layer=LayerId(""))
        if facts is None:
            # The row of an earlier process holds until the tenant was asked for the first time.
            return row if row.version else dataclasses.replace(row, condition="the tenant is being asked")
        tenant = facts.tenant or kube.tenant or row.tenant or TenantId(kube.name)
        # Another tenant's agents talk to that one: none of them is good any more.
        good = tenant == row.tenant and self._may_be_good(kube, facts, row.good_version)
        row = dataclasses.replace(row if good else _without_good(row), tenant=tenant)
        version = self._version(kube, facts, before)
        if not version:
            return dataclasses.replace(
                row, version=Version(""), condition=facts.problem or "the tenant names no version"
            )
        tree = trees.get(version) or (Path(self._folder.agent(version)) if self._store.has(version) else None)
        row = dataclasses.replace(row, version=version)
        if tree is None:
            return dataclasses.replace(row, condition=self._why_not(version, facts))
        try:
            row = dataclasses.replace(row, layer=self._layer(kube, facts, row, tree), condition=facts.refused)
        except OSError as error:
            if version in trees:
                raise
            # A full disk must hold up neither other DynaKubes nor the collector, which comes after this.
            return dataclasses.replace(row, condition=f"its configuration can't be written: {error.strerror}")
        # Good is what is in the store, not what will be there in a moment.
        return row if version in trees else dataclasses.replace(row, good_version=version, good_layer=row.layer)

    def _layer(self, kube: dynakube.DynaKube, facts: TenantState, row: DesiredState, tree: Path) -> LayerId:
        """The config layer; while the tenant has never told us all, the one that an earlier process made."""
        if not facts.complete and row.layer and self._folder.config_layer(row.tenant, row.layer).exists():
            return row.layer
        text = config_layers.merge_config(tree, facts.properties, _own_settings(kube, facts))
        return config_layers.ensure(self._folder, row.tenant, text)

    def _version(self, kube: dynakube.DynaKube, facts: TenantState, before: DesiredState) -> Version | None:
        """The image that is named, else what the operator decided, else what the user pinned, else the tenant's latest.

        While that is not known, what it was.
        """
        image = kube.image or kube.image_folder
        if image is not None and kube.image_key:
            return self._signed(facts, before)
        if image is not None:
            if digest := image.digest or facts.digest:
                return origins.version_of(digest)
            return before.version if self._store.has(before.version) else None
        if chosen := kube.wanted_version or kube.pinned_version:
            return chosen
        if kube.package_file is not None:
            return self._archives.version(kube.package_file) or before.version
        return facts.latest or before.version or None

    def _signed(self, facts: TenantState, before: DesiredState) -> Version | None:
        """The image that was found to be signed; while there is no such, the one before if its signature is good."""
        for version in (origins.version_of(facts.digest), before.version):
            if facts.keys is not None and self._approved.good(version, facts.keys):
                return version
        # As long as nobody can tell which keys are wanted, nothing changes.
        return before.version if facts.keys is None and self._store.has(before.version) else None

    def _may_be_good(self, kube: dynakube.DynaKube, facts: TenantState, version: Version) -> bool:
        """Whether a version may be mounted in place of the wanted one: it needs the same signature, if any does."""
        if kube.image is None or not kube.image_key or facts.keys is None:
            return True
        return self._approved.good(version, facts.keys)

    def _why_not(self, version: Version, facts: TenantState) -> str:
        record = self._records.versions.get(version)
        if record is not None and record.state == VersionState.FAILED:
            return f"version {version} can't be installed: {record.message}"
        state = record.state if record is not None else VersionState.WANTED
        return f"version {version} is not in the store yet ({state})" + (f"; {facts.problem}" if facts.problem else "")

    # ---------------------------------------------------------------- installs

    def _requests(self, kubes: Iterable[dynakube.DynaKube], rows: Mapping[DynaKubeName, DesiredState]) -> list[Request]:
        """The versions to install, each once however many DynaKubes want it."""
        wanting: dict[Version, list[dynakube.DynaKube]] = {}
        for kube in kubes:
            version = rows[kube.name].version
            # Before the tenant was asked there is no configuration that could go with a version.
            asked = self._questions.facts(kube.name) is not None
            if version and asked and not self._store.has(version):
                wanting.setdefault(version, []).append(kube)
                self._announcer.expect(kube, version)
        return [
            Request(
                version,
                tuple(
                    functools.partial(origins.supply, kube, version, self._source, self._registries)
                    for kube in wanted_by
                ),
                self._prepare,
                settings=tuple(origins.settings(kube) for kube in wanted_by),
                mirrored=tuple(origins.mirrored(kube, version) for kube in wanted_by),
                fixed=all(kube.image is not None for kube in wanted_by),
            )
            for version, wanted_by in wanting.items()
        ]

    def _take(
        self, carried_in: list[Version], kubes: list[dynakube.DynaKube], rows: Mapping[DynaKubeName, DesiredState]
    ) -> None:
        """Put versions that were preloaded into the store, once nothing else is done for them."""
        unasked = {rows[kube.name].version for kube in kubes if self._questions.facts(kube.name) is None}
        for version in carried_in:
            if version in unasked or version in self.installer.busy:
                continue
            try:
                size = preload.take(self._folder, version, self._prepare, self._failpoint)
            except file_manifest.TreeManifestError as error:
                log.error("a preloaded version can't be used", extra=logs.facts(version=version, reason=error))
                self._folder.discard(self._folder.preloaded / version)
                continue
            except OSError as error:
                # As an install that fails: it holds up neither others nor what else is to be done, and comes again.
                self._not_taken(version, f"it was preloaded and can't be put into the store: {error.strerror}")
                continue
            if size is not None:
                now = time.time()
                self._records.put_version(
                    version, VersionState.READY, size_bytes=size, source="preload", installed_at=now, last_used_at=now
                )
                log.info("preloaded version taken", extra=logs.facts(version=version, bytes=size))
            self.wake()

    def _not_taken(self, version: Version, why: str) -> None:
        record = self._records.versions.get(version)
        if record is None or (record.state, record.message) != (VersionState.FAILED, why):
            log.warning("a preloaded version is not taken for now", extra=logs.facts(version=version, reason=why))
            self._records.put_version(version, VersionState.FAILED, message=why)

    def _prepare(self, version: Version, tree: Path) -> None:
        """Have rows and config layers ready for a version before it becomes visible."""
        with self.deciding:
            snapshot = self._snapshot
            if snapshot is None:
                return
            kubes = [kube for kube in snapshot.dynakubes.values() if kube.needs_app_views]
            rows = dict(self._records.wanted) | self._rows(kubes, {version: tree})
            self._records.want(rows.values())

    # ----------------------------------------------------------- to the cluster

    def _tell(self, kubes: Iterable[dynakube.DynaKube], rows: Mapping[DynaKubeName, DesiredState]) -> None:
        versions = self._records.versions
        ready = 0
        viewless = 0
        for kube in kubes:
            viewless += not kube.needs_app_views
            facts = self._questions.facts(kube.name)
            self._announcer.refused(kube, facts.refused if facts else "")
            record = versions.get(rows[kube.name].version)
            if record is not None:
                ready += record.state == VersionState.READY and kube.needs_app_views
                self._announcer.tell(kube, record)
        self._metrics.dynakubes.labels("ready").set(ready)
        # Those whose pods get no views wait for nothing.
        self._metrics.dynakubes.labels("waiting").set(len(rows) - viewless - ready)


def _own_settings(kube: dynakube.DynaKube, facts: TenantState) -> list[ruxitagentproc.Property]:
    """The settings that the DynaKube and its tenant's connection make; they win over the tenant's configuration."""
    endpoints = facts.endpoints or tuple(part for part in kube.endpoints.split(",") if part)
    return ruxitagentproc.general_properties(
        host_group=kube.host_group or None,
        tenant=facts.tenant or kube.tenant,
        tenant_token=facts.tenant_token or None,
        endpoints=endpoints or None,
        proxy=kube.proxy or None,
    )


def _without_good(row: DesiredState) -> DesiredState:
    return dataclasses.replace(row, good_version=Version(""), good_layer=LayerId(""))
