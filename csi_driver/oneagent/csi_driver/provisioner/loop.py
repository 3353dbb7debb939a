"""The provisioner's loop: from what DynaKubes say and what is on the disk to what is wanted and what to do.

Level-triggered: each turn looks at everything and states the whole result, so a turn that is lost, a crash or a
missed event costs nothing but time. A turn never waits for the network: tenants are asked and versions are
installed in tasks of their own, whose ends wake the loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from oneagent.common import downloads, dynakube, httpclient, logs, tenant
from oneagent.common.names import DynaKubeName, TenantId, Version
from oneagent.csi_driver import sources
from oneagent.csi_driver.garbage import Collector
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.dynakubes import Wanted
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.paths import DataFolder, LayerId
from oneagent.csi_driver.provisioner import layers, tenants
from oneagent.csi_driver.provisioner.installs import Installer, Request
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.records import Records
from oneagent.csi_driver.provisioner.tenants import Facts
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
_FIRST_ASK_PAUSE: Final = 5.0


class _Asking:
    """One DynaKube's questions to its tenant."""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.about: tuple[object, ...] = ()
        self.running = False
        self.failures = 0
        self.next_at = 0.0


class Provisioner:
    """Owns the loop's thread and the tasks. `run` returns after `stop` is set."""

    def __init__(
        self,
        source: sources.Source,
        folder: DataFolder,
        store: AgentStore,
        records: Records,
        metrics: ProvisionerMetrics,
        *,
        collect_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._folder = folder
        self._store = store
        self._records = records
        self._metrics = metrics
        self._collect_seconds = collect_seconds
        self._now = now
        self._wake = threading.Event()
        self._turning = threading.RLock()
        self._snapshot: sources.Snapshot | None = None
        self._asking: dict[DynaKubeName, _Asking] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._digests: dict[tuple[str, int, int], Version] = {}
        self._tasks = ThreadPoolExecutor(4, thread_name_prefix="ask")
        self.installer: Installer
        self.collector: Collector

    def known(self) -> Iterable[str] | None:
        """All DynaKubes that exist, as far as the source has told; None before its first word."""
        snapshot = self._snapshot
        return None if snapshot is None else {*snapshot.dynakubes, *snapshot.invalid}

    def wake(self) -> None:
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Turn until stopped: when something changes, and each second."""
        watching = threading.Thread(target=self._watch, args=(stop,), name="source", daemon=True)
        watching.start()
        collect_at = 0.0
        while not stop.is_set():
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            try:
                self.turn()
                if time.monotonic() >= collect_at and self._snapshot is not None:
                    collect_at = time.monotonic() + self._collect_seconds
                    if self.collector.collect():
                        self.wake()
            except Exception:
                log.exception("turn failed")
                stop.wait(TICK_SECONDS)
        self._tasks.shutdown(wait=False, cancel_futures=True)
        self.installer.stop()
        watching.join(5)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._source.run(self._changed, stop)
            except Exception:
                log.exception("the source of DynaKubes failed")
                stop.wait(5)

    def _changed(self, snapshot: sources.Snapshot) -> None:
        for name, problem in snapshot.newly_invalid(self._snapshot):
            log.error("a DynaKube can't be used", extra=logs.facts(dynakube=name, reason=problem))
        self._snapshot = snapshot
        self.wake()

    def turn(self) -> None:
        """One look at everything. Called from the loop; safe to call from elsewhere."""
        self._say_notices()
        snapshot = self._snapshot
        if snapshot is None:
            self._records.flush()
            return
        with self._turning:
            kubes = [kube for kube in snapshot.dynakubes.values() if kube.needs_app_views or kube.needs_host_folder]
            for kube in kubes:
                self._ask_if_due(kube)
            for name in set(self._asking) - set(snapshot.dynakubes):
                del self._asking[name]
            rows = self._rows(kubes, {})
            kept = [row for name, row in self._records.wanted.items() if name in snapshot.invalid and name not in rows]
            self._records.want([*rows.values(), *kept])
            self.installer.want(self._requests(kubes, rows))
            self._tell(kubes, rows)

    # --------------------------------------------------------------- questions

    def _ask_if_due(self, kube: dynakube.DynaKube) -> None:
        asking = self._asking.setdefault(kube.name, _Asking())
        about: tuple[object, ...] = (kube.api_url, kube.tokens_secret, kube.network_zone, kube.proxy, kube.proxy_secret)
        about += (kube.no_proxy, kube.trusted_cas, kube.skip_cert_check, kube.host_group, kube.package, kube.tenant)
        if asking.running or (about == asking.about and time.monotonic() < asking.next_at):
            return
        if about != asking.about:
            asking.about, asking.failures = about, 0
        asking.running = True
        self._tasks.submit(self._ask, kube, asking)

    def _ask(self, kube: dynakube.DynaKube, asking: _Asking) -> None:
        try:
            asking.facts = facts = tenants.ask(kube, self._source, asking.facts, self._now)
            asking.failures = asking.failures + 1 if facts.problem else 0
            pause = kube.poll_seconds
            if facts.problem:
                pause = min(pause, _FIRST_ASK_PAUSE * 2 ** min(asking.failures - 1, 16))
            asking.next_at = time.monotonic() + max(pause * random.uniform(0.8, 1.2), facts.retry_after or 0.0)
        except Exception:
            log.exception("asking the tenant failed")
            asking.next_at = time.monotonic() + kube.poll_seconds
        finally:
            asking.running = False
            self.wake()

    # -------------------------------------------------------------------- rows

    def _rows(self, kubes: Iterable[dynakube.DynaKube], trees: Mapping[Version, Path]) -> dict[DynaKubeName, Wanted]:
        """What is wanted; `trees` are versions that will be in the store in a moment."""
        return {kube.name: self._row(kube, trees) for kube in kubes}

    def _row(self, kube: dynakube.DynaKube, trees: Mapping[Version, Path]) -> Wanted:
        before = self._records.wanted.get(kube.name) or Wanted(kube.name)
        row = dataclasses.replace(
            before,
            mount_attempts=kube.mount_attempts,
            mount_timeout_seconds=kube.mount_timeout_seconds,
            cluster_id=kube.cluster_id,
            host_tenant=kube.mode == "cloudNativeFullStack",
            condition="",
        )
        facts = self._asking[kube.name].facts if kube.name in self._asking else None
        if not kube.needs_app_views:
            return dataclasses.replace(row, version=Version(""), layer=LayerId(""))
        if facts is None:
            # The row of an earlier process holds until the tenant was asked for the first time.
            return row if row.version else dataclasses.replace(row, condition="the tenant is being asked")
        row = dataclasses.replace(row, tenant=facts.tenant or kube.tenant or row.tenant or TenantId(kube.name))
        version = self._version(kube, facts, before)
        if not version:
            return dataclasses.replace(
                row, version=Version(""), condition=facts.problem or "the tenant names no version"
            )
        tree = trees.get(version) or (Path(self._folder.agent(version)) if self._store.has(version) else None)
        layer = LayerId("")
        if tree is not None:
            layer = layers.ensure(self._folder, row.tenant, layers.merged(tree, kube, facts))
        return dataclasses.replace(
            row, version=version, layer=layer, condition="" if tree else self._why_not(version, facts)
        )

    def _version(self, kube: dynakube.DynaKube, facts: Facts, before: Wanted) -> Version | None:
        """What the operator decided, else what the user pinned, else the tenant's latest, else what it was."""
        if chosen := kube.wanted_version or kube.pinned_version:
            return chosen
        if kube.package_file is not None:
            return self._digest(kube.package_file) or before.version
        return facts.latest or before.version or None

    def _digest(self, package: Path) -> Version | None:
        """A local archive without a version is known by what is in it. Hashed once for each change of the file."""
        try:
            status = package.stat()
            key = (str(package), status.st_mtime_ns, status.st_size)
            if key not in self._digests:
                with package.open("rb") as file:
                    self._digests[key] = Version(f"sha256-{hashlib.file_digest(file, 'sha256').hexdigest()}")
            return self._digests[key]
        except OSError:
            return None

    def _why_not(self, version: Version, facts: Facts) -> str:
        record = self._records.versions.get(version)
        if record is not None and record.state == VersionState.FAILED:
            return f"version {version} can't be installed: {record.message}"
        state = record.state if record is not None else VersionState.WANTED
        return f"version {version} is not in the store yet ({state})" + (f"; {facts.problem}" if facts.problem else "")

    # ---------------------------------------------------------------- installs

    def _requests(self, kubes: Iterable[dynakube.DynaKube], rows: Mapping[DynaKubeName, Wanted]) -> list[Request]:
        """The versions to install. Of two DynaKubes that want the same version, the first one's source serves."""
        requests: dict[Version, Request] = {}
        for kube in kubes:
            version = rows[kube.name].version
            if not version or version in requests or self._store.has(version):
                continue
            if source := self._package(kube, version):
                requests[version] = Request(version, source, self._prepare)
        return list(requests.values())

    def _package(self, kube: dynakube.DynaKube, version: Version) -> downloads.Source | None:
        try:
            if kube.package_file is not None:
                return downloads.LocalFile(kube.package_file)
            if kube.package:
                raise httpclient.InvalidSettings(
                    f"codeModulesImage: {kube.package!r} is an image; only file:///… archives are supported so far"
                )
            return tenant.package(tenants.access(kube, self._source), version, technologies=kube.technologies)
        except (httpclient.InvalidSettings, sources.SourceError) as error:
            record = self._records.versions.get(version)
            if record is None or record.message != str(error):
                self._records.put_version(version, VersionState.FAILED, message=str(error))
            return None

    def _prepare(self, version: Version, tree: Path) -> None:
        """Have rows and config layers ready for a version before it becomes visible."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        with self._turning:
            kubes = [kube for kube in snapshot.dynakubes.values() if kube.needs_app_views]
            rows = dict(self._records.wanted) | self._rows(kubes, {version: tree})
            self._records.want(rows.values())

    # ----------------------------------------------------------- to the cluster

    def _say_notices(self) -> None:
        try:
            with self._records.notices() as notices:
                for notice in notices:
                    pod = sources.PodReference(notice.pod_namespace, notice.pod_name, notice.pod_uid)
                    self._source.event(pod, _kind(notice.kind), notice.reason, notice.message)
        except database.Unavailable as error:
            log.debug("notices can't be read", extra=logs.facts(error=error))

    def _tell(self, kubes: Iterable[dynakube.DynaKube], rows: Mapping[DynaKubeName, Wanted]) -> None:
        """An Event on the DynaKube when its version arrives, or can't."""
        versions = self._records.versions
        ready = 0
        for kube in kubes:
            record = versions.get(rows[kube.name].version)
            if record is None:
                continue
            ready += record.state == VersionState.READY
            key, news = (kube.name, record.version), f"{record.state} {record.message}"
            if self._told.get(key, f"{VersionState.READY} ") == news:
                continue
            self._told[key] = news
            if record.state == VersionState.READY:
                self._source.event(kube, "Normal", "InstallAgentVersion", f"Installed agent version {record.version}")
            elif record.state == VersionState.FAILED:
                self._source.event(
                    kube, "Warning", "FailedInstallAgentVersion", f"Agent version {record.version}: {record.message}"
                )
        self._metrics.dynakubes.labels("ready").set(ready)
        self._metrics.dynakubes.labels("waiting").set(len(rows) - ready)


def _kind(text: str) -> sources.Kind:
    return "Normal" if text == "Normal" else "Warning"
