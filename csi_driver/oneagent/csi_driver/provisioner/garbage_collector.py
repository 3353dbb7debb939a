"""Garbage collection: what nobody needs goes, what anybody may need stays.

A version may go when no DynaKube wants it, no volume row names it, no overlay in the mount table has it as a lower
layer, and it is not being installed. Config layers go by the same four conditions. If any of these can't be read,
nothing goes. The decision is a pure function of one look at everything; it is taken, and carried out by renames into
the trash, while the store's exclusive lease keeps new mounts from being made and nothing new becomes wanted. Deleting
the trash comes later and may take its time (see `trash`).

Disk budget: over it, unused versions that are kept for a while (`keep_unused_seconds`) go first, the one whose last
use is longest ago before the others. What is used is never removed; a version that would not fit is refused. What
versions share counts once. Room for a new version is made for all of it, since what it shares is known afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage, mount_table
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState, VersionRecord
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.provisioner import download_files, log_retention
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.trash import Trash
from oneagent.csi_driver.store import AgentStore, StoreBusyError, damage_log, preload, usage
from oneagent.csi_driver.store.usage import Occupancy

log = logging.getLogger(__name__)

_CANNOT_TELL: Final = (database.DatabaseUnavailableError, StoreBusyError, ValueError, OSError)
"""The database, the lease, the mount table, the disk: without a word of each of them nothing is removed."""


class NoSpaceError(Exception):
    """A version does not fit."""


@dataclass(frozen=True, slots=True)
class Policy:
    """0 bytes means no limit. Kept logs are those of pods that are gone (see the server's `--keep-logs`)."""

    budget_bytes: int = 0
    reserve_bytes: int = 256 << 20
    keep_unused_seconds: float = 0.0
    keep_logs_seconds: float = 7 * 86400.0
    keep_logs_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class References:
    """Who may need what: the four conditions, from one look."""

    versions: frozenset[Version]
    layers: frozenset[str]
    """Paths of config layers."""
    hosts: frozenset[str]
    """Names of DynaKubes whose host agent's folder is in use."""


def find_references(
    folder: DataDir,
    mounts: Iterable[Mount],
    volumes: Iterable[VolumeRecord],
    wanted: Iterable[DesiredState],
    installing: Iterable[Version],
    known: Iterable[str],
) -> References:
    """`known` are the names of all DynaKubes that exist, usable or not."""
    versions = set(installing)
    layers: set[str] = set()
    hosts = set(known)
    for mount in mounts:
        # The server may know the data folder by another path, and a bind mount's source shows as a path within its
        # file system. So the last parts of a path count: a foreign one that looks like ours only keeps too much.
        for layer in overlay.lower if (overlay := mount_table.as_overlay(mount)) else ():
            match layer.split("/"):
                case [*_, folder.agents.name, version]:
                    versions.add(Version(version))
                case [*_, folder.config_layers.name, tenant, digest]:
                    layers.add(f"{folder.config_layers}/{tenant}/{digest}")
                case _:
                    pass
        head, _, name = mount.root.rpartition("/")
        if head.rpartition("/")[2] == folder.host_agents.name:
            hosts.add(name)
    volumes, wanted = list(volumes), list(wanted)
    named = [(row.version, row.tenant, row.layer) for row in volumes]
    named += [(row.version, row.tenant, row.layer) for row in wanted]
    named += [(row.good_version, row.tenant, row.good_layer) for row in wanted if row.mount_policy == "last-good"]
    versions |= {Version(version) for version, _, _ in named}
    layers |= {f"{folder.config_layers}/{tenant}/{layer}" for _, tenant, layer in named}
    hosts |= {volume.dynakube for volume in volumes if volume.mode == "host"} | {row.name for row in wanted}
    return References(frozenset(versions), frozenset(layers), frozenset(hosts))


def expired(
    unused: Iterable[Version],
    records: Mapping[Version, VersionRecord],
    policy: Policy,
    used_without: Callable[[Collection[Version]], int],
    now: float,
) -> list[Version]:
    """Which unused versions go now: those kept long enough, and as many as bring the disk below its budget.

    `used_without` tells how many bytes would be used without some versions.
    """
    by_last_use = sorted(unused, key=lambda version: _last_use(records, version))
    gone: list[Version] = []
    for version in by_last_use:
        over_budget = bool(policy.budget_bytes) and used_without(gone) > policy.budget_bytes
        if over_budget or now - _last_use(records, version) >= policy.keep_unused_seconds:
            gone.append(version)
    return gone


def _last_use(records: Mapping[Version, VersionRecord], version: Version) -> float:
    return records[version].last_used_at if version in records else 0.0


class GarbageCollector:
    """Removes what may be removed, and makes room for what is to come (`room.Room`)."""

    def __init__(
        self,
        folder: DataDir,
        store: AgentStore,
        records: ProvisionerState,
        policy: Policy,
        metrics: ProvisionerMetrics,
        *,
        installing: Callable[[], Iterable[Version]],
        known: Callable[[], Iterable[str] | None],
        decision_lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008 - has no state
        mounts: Callable[[], list[Mount]] = mount_table.read,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`known` gives the names of all DynaKubes, None as long as nobody has told yet.

        `decision_lock` is held during the decision; whoever changes what is wanted, and makes config layers for it, holds
        the same.
        """
        self._folder = folder
        self._store = store
        self._records = records
        self._policy = policy
        self._metrics = metrics
        self._installing = installing
        self._known = known
        self._mounts = mounts
        self._decision_lock = decision_lock
        self._now = now
        self._failpoint = failpoint
        self._occupancy = Occupancy(folder, store)
        self._trash = Trash(folder, mounts, failpoint)

    def collect(self) -> list[Version]:
        """One run; the versions that went."""
        result, gone = "ok", []
        try:
            gone = self._collect(self._policy)
        except _CANNOT_TELL as error:
            result = "skipped"
            log.warning("nothing is collected for now", extra=logs.facts(reason=error))
        try:
            policy = self._policy
            left = log_retention.expire(self._folder, policy.keep_logs_seconds, policy.keep_logs_bytes, self._now())
            self._metrics.log_bytes.set(left)
            self.empty_trash()
        except _CANNOT_TELL as error:
            log.warning("the trash stays for now", extra=logs.facts(reason=error))
        self._metrics.collections.labels(result).inc()
        self._measure()
        return gone

    def make_room(self, needed_bytes: int) -> None:
        """Remove unused versions until `needed_bytes` fit; `NoSpaceError` if they do not."""
        if self._fits(needed_bytes):
            return
        # As if nothing were kept without need, until there is room.
        strict = Policy(keep_unused_seconds=float("-inf"))
        with contextlib.suppress(*_CANNOT_TELL):
            while not self._fits(needed_bytes) and self._collect(strict, at_most=1):
                self.empty_trash()
        if not self._fits(needed_bytes):
            free = self.free(self._folder.root)
            raise NoSpaceError(
                f"{_mib(needed_bytes)} are needed and {_mib(max(free, 0))} are free "
                f"(disk budget {_mib(self._policy.budget_bytes) if self._policy.budget_bytes else 'none'}, "
                f"reserve {_mib(self._policy.reserve_bytes)}); every version in the store is in use or wanted"
            )

    def free(self, directory: Path) -> int:
        """Return the bytes that may still be used: of the disk, and of the budget."""
        free = download.free_bytes(directory) - self._policy.reserve_bytes
        if self._policy.budget_bytes:
            free = min(free, self._policy.budget_bytes - self.used_bytes())
        return free

    def used_bytes(self) -> int:
        """What counts against the budget: the store, and downloads and trees under way."""
        return self._occupancy.bytes() + self._unfinished_bytes()

    def _unfinished_bytes(self) -> int:
        return disk_usage.total_bytes(self._folder.tmp, self._folder.preloaded)

    def _fits(self, needed_bytes: int) -> bool:
        return self.free(self._folder.root) >= needed_bytes

    def _collect(self, policy: Policy, at_most: int = 1 << 30) -> list[Version]:
        """Move what may go into the trash, under the store's exclusive lease.

        Rows are read before it and mounts under it: a publish that comes in between shows in the mount table.
        """
        with self._decision_lock:
            known = self._known()
            if known is None:
                return []
            gone = self._collect_locked(policy, known, at_most)
        self._records.flush()
        return gone

    def _collect_locked(self, policy: Policy, known: Iterable[str], at_most: int) -> list[Version]:
        # Only a budget needs to know; asked before the lease, which holds up publishes.
        taken = self._occupancy.by_version() if policy.budget_bytes else {}
        other_bytes = self._unfinished_bytes() if policy.budget_bytes else 0

        def used_without(gone: Collection[Version]) -> int:
            return usage.without(taken, gone) + other_bytes

        volumes, wanted = self._records.volumes(), self._records.wanted_anywhere()
        pinned = preload.list_pinned(self._folder, {row.version for row in wanted}, self._now())
        with self._store.removal():
            found = find_references(
                self._folder, self._mounts(), volumes, wanted, {*self._installing(), *pinned}, known
            )
            stored = self._store.versions()
            self._records.used(version for version in stored if version in found.versions)
            unused = [version for version in stored if version not in found.versions]
            records = self._records.versions
            gone = expired(unused, records, policy, used_without, self._now())[:at_most]
            for version in gone:
                self._store.remove(version)
                self._failpoint("version in the trash")
                log.info("version removed", extra=logs.facts(version=version))
            self._discard_layers(found)
            self._discard_host_agents(found)
        self._delete_downloads(found.versions)
        damage_log.prune(self._folder, volumes, set(stored) - set(gone), found.versions)
        for version in set(records) - set(stored) - found.versions | set(gone):
            self._records.drop_version(version)
            with contextlib.suppress(KeyError):
                self._metrics.store_bytes.remove(version)
        return gone

    def _discard_layers(self, found: References) -> None:
        for tenant in [entry for entry in self._folder.config_layers.iterdir() if entry.is_dir()]:
            for layer in tenant.iterdir():
                if str(layer) not in found.layers:
                    self._folder.discard(layer)
            with contextlib.suppress(OSError):
                tenant.rmdir()

    def _discard_host_agents(self, found: References) -> None:
        for host in self._folder.host_agents.iterdir():
            if host.name not in found.hosts:
                self._folder.discard(host)
                log.info("host agent's folder removed", extra=logs.facts(dynakube=host.name))

    def _delete_downloads(self, needed: frozenset[Version]) -> None:
        """Packages, parts of them, and manifests that belong to no version any more."""
        for file in self._folder.tmp.iterdir():
            version = download_files.parse_version(file.name)
            if version is not None and version not in needed:
                file.unlink(missing_ok=True)
        kept = {*needed, *self._store.versions()}
        for manifest in self._folder.manifests.glob("[!.]*.json"):
            if manifest.stem not in kept:
                self._folder.discard(manifest)

    def empty_trash(self) -> None:
        """Delete what was thrown away, unless somebody still has it."""
        self._metrics.reclaimed_bytes.labels("trash").inc(self._trash.empty())

    def _measure(self) -> None:
        with contextlib.suppress(OSError):
            self._metrics.disk_bytes.set(self._occupancy.bytes())
        for version, record in self._records.versions.items():
            if record.size_bytes:
                self._metrics.store_bytes.labels(version).set(record.size_bytes)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


DEFAULT: Final = Policy()
