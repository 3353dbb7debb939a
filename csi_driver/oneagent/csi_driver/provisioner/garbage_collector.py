"""Garbage collection: removes versions, config layers and files that nothing references.

A version is garbage when no DynaKube uses it, no volume row names it, no mount in the mount table has it as a lower
layer or as its source, and it is not being installed. The same four conditions hold for config layers. If one of these
cannot be read, nothing is removed. The decision is a pure function of one snapshot. It is made, and carried out by
renames into the trash, under two locks: the store's exclusive lease, which stops new mounts, and the lock of decisions
about the desired state. The trash is deleted later (see `trash`).

Over the disk budget, unused versions in retention (`keep_unused_seconds`) are removed, the least recently used first.
Used versions are never removed; a version that does not fit is refused. Files that versions share count once. Space
for a new version is made for all of it, because its shared files are found only afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import disk_usage, mount_table
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.desired_versions import WAIT_THEN_LAST_GOOD, DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState, VersionRecord
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.provisioner import download_files, log_retention
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.trash import Trash
from oneagent.csi_driver.store import (
    AgentStore,
    StoreBusyError,
    corruption_log,
    mounted_views,
    preload,
    store_key,
    usage,
)
from oneagent.csi_driver.store.usage import StoreUsage

log = logging.getLogger(__name__)

_UNREADABLE: Final = (database.DatabaseUnavailableError, StoreBusyError, ValueError, OSError)
"""The database, the lease, the mount table or the disk cannot be read: nothing is removed."""


class NoSpaceError(Exception):
    """A version does not fit."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """0 bytes: no limit. Kept logs are those of deleted pods (see the server's `--keep-logs`)."""

    budget_bytes: int = 0
    reserve_bytes: int = 256 << 20
    keep_unused_seconds: float = 0.0
    keep_logs_seconds: float = 7 * 86400.0
    keep_logs_bytes: int = 1 << 30


_NO_RETENTION: Final = RetentionPolicy(keep_unused_seconds=float("-inf"))


@dataclass(frozen=True, slots=True)
class References:
    """Everything that is in use or may be used: the four conditions."""

    versions: frozenset[Version]
    layers: frozenset[str]
    """Paths of config layers."""
    hosts: frozenset[str]
    """Names of DynaKubes whose host agent's directory is in use."""


def find_references(
    data: DataDir,
    mounts: Iterable[Mount],
    volumes: Iterable[VolumeRecord],
    desired: Iterable[DesiredState],
    installing: Iterable[Version],
    dynakube_names: Iterable[str],
) -> References:
    """Return what mounts, rows and installs use; `dynakube_names` are all existing DynaKubes, valid or not."""
    versions = set(installing)
    layers: set[str] = set()
    hosts = set(dynakube_names)
    for mount in mounts:
        # The server may know the data directory by another path, and a bind mount's source shows as a path within its
        # file system. So the last parts of a path count: a foreign path that looks like ours only retains too much.
        for layer in overlay.lower if (overlay := mount_table.as_overlay(mount)) else ():
            match layer.split("/"):
                case [*_, data.agents.name, version]:
                    versions.add(Version(version))
                case [*_, data.config_layers.name, tenant, digest]:
                    layers.add(f"{data.config_layers}/{tenant}/{digest}")
                case _:
                    pass
        if bound := mounted_views.bound_version(mount, data):
            versions.add(bound)
        head, _, name = mount.root.rpartition("/")
        if head.rpartition("/")[2] == data.host_agents.name:
            hosts.add(name)
    volumes, desired = list(volumes), list(desired)
    named = [(row.version, row.tenant, row.layer) for row in volumes]
    named += [(row.version, row.tenant, row.layer) for row in desired]
    named += [
        (row.good_version, row.tenant, row.good_layer) for row in desired if row.may_fall_back and row.good_version
    ]
    versions |= {Version(version) for version, _, _ in named}
    layers |= {f"{data.config_layers}/{tenant}/{layer}" for _, tenant, layer in named}
    hosts |= {volume.dynakube for volume in volumes if volume.mode == "host"} | {row.name for row in desired}
    return References(frozenset(versions), frozenset(layers), frozenset(hosts))


def select_expired(
    unused: Iterable[Version],
    records: Mapping[Version, VersionRecord],
    policy: RetentionPolicy,
    used_without: Callable[[Collection[Version]], int],
    now: float,
) -> list[Version]:
    """Return the unused versions to remove: past their retention, or over the budget.

    `used_without` returns the bytes in use without some versions.
    """
    by_last_use = sorted(unused, key=lambda version: _last_use(records, version))
    removed: list[Version] = []
    for version in by_last_use:
        over_budget = bool(policy.budget_bytes) and used_without(removed) > policy.budget_bytes
        if over_budget or now - _last_use(records, version) >= policy.keep_unused_seconds:
            removed.append(version)
    return removed


def _without_fallback(row: DesiredState) -> DesiredState:
    if row.mount_policy != WAIT_THEN_LAST_GOOD:
        return row
    return dataclasses.replace(row, good_version=Version(""), good_layer=LayerId(""))


def _last_use(records: Mapping[Version, VersionRecord], version: Version) -> float:
    return records[version].last_used_at if version in records else 0.0


class GarbageCollector:
    """Removes garbage, and frees space for installs."""

    def __init__(
        self,
        data: DataDir,
        store: AgentStore,
        state: ProvisionerState,
        policy: RetentionPolicy,
        metrics: ProvisionerMetrics,
        *,
        installing: Callable[[], Iterable[Version]],
        dynakube_names: Callable[[], Iterable[str] | None],
        decision_lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008 - has no state
        mounts: Callable[[], list[Mount]] = mount_table.read,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`dynakube_names` returns the names of all DynaKubes; None while it is not known what they want.

        `decision_lock` is held during each decision, here and where the desired state changes.
        """
        self._data = data
        self._store = store
        self._state = state
        self._policy = policy
        self._metrics = metrics
        self._installing = installing
        self._dynakube_names = dynakube_names
        self._mounts = mounts
        self._decision_lock = decision_lock
        self._now = now
        self._failpoint = failpoint
        self._usage = StoreUsage(data, store)
        self._trash = Trash(data, mounts, failpoint)

    def collect(self) -> list[Version]:
        """Run once; return the removed versions."""
        result, removed = "ok", []
        try:
            removed = self._collect(self._policy)
        except _UNREADABLE as error:
            result = "skipped"
            log.warning("garbage collection skipped", extra=logs.fields(reason=error))
        try:
            policy = self._policy
            remaining = log_retention.expire(self._data, policy.keep_logs_seconds, policy.keep_logs_bytes, self._now())
            self._metrics.log_bytes.set(remaining)
            self.empty_trash()
        except _UNREADABLE as error:
            log.warning("trash not emptied", extra=logs.fields(reason=error))
        self._metrics.collections.labels(result).inc()
        self._measure()
        return removed

    def make_room(self, needed_bytes: int) -> None:
        """Remove unused versions until `needed_bytes` fit; `NoSpaceError` if they do not."""
        if self._fits(needed_bytes):
            return
        with contextlib.suppress(*_UNREADABLE):
            # The version before is worth less than the wanted one, which would not come without its room.
            for keep_fallbacks in (True, False):
                while not self._fits(needed_bytes) and self._collect(_NO_RETENTION, 1, keep_fallbacks=keep_fallbacks):
                    self.empty_trash()
        if not self._fits(needed_bytes):
            free = self.free_bytes(self._data.root)
            raise NoSpaceError(
                f"{_mib(needed_bytes)} are needed and {_mib(max(free, 0))} are free "
                f"(disk budget {_mib(self._policy.budget_bytes) if self._policy.budget_bytes else 'none'}, "
                f"reserve {_mib(self._policy.reserve_bytes)}); every version in the store is in use or desired"
            )

    def evict(self) -> bool:
        """Remove the unused version whose last use is longest ago; False without one.

        For a disk that is full by another limit than its bytes: inodes, or a quota.
        """
        removed: list[Version] = []
        with contextlib.suppress(*_UNREADABLE):
            removed = self._collect(_NO_RETENTION, 1) or self._collect(_NO_RETENTION, 1, keep_fallbacks=False)
            self.empty_trash()
        return bool(removed)

    def free_bytes(self, directory: Path) -> int:
        """Return the bytes that may still be used: of the disk, and of the budget."""
        free = download.free_bytes(directory) - self._policy.reserve_bytes
        if self._policy.budget_bytes:
            free = min(free, self._policy.budget_bytes - self.used_bytes())
        return free

    def used_bytes(self) -> int:
        """Return the bytes that count against the budget: the store, downloads and trees in progress."""
        return self._usage.total_bytes() + self._unfinished_bytes()

    def _unfinished_bytes(self) -> int:
        return disk_usage.total_bytes(self._data.tmp, self._data.preloaded)

    def _fits(self, needed_bytes: int) -> bool:
        return self.free_bytes(self._data.root) >= needed_bytes

    def _collect(
        self, policy: RetentionPolicy, at_most: int = 1 << 30, *, keep_fallbacks: bool = True
    ) -> list[Version]:
        """Move garbage into the trash, under the store's exclusive lease.

        Without `keep_fallbacks` also versions that pods would get while the wanted one is missing, unless their
        DynaKube's mount policy is to mount them at once.
        Rows are read before it and mounts under it: a publish in between shows in the mount table.
        """
        with self._decision_lock:
            dynakube_names = self._dynakube_names()
            if dynakube_names is None:
                return []
            removed = self._collect_locked(policy, dynakube_names, at_most, keep_fallbacks)
        self._state.flush()
        return removed

    def _collect_locked(
        self, policy: RetentionPolicy, dynakube_names: Iterable[str], at_most: int, keep_fallbacks: bool
    ) -> list[Version]:
        # Only for a budget, and before the lease, which blocks publishes.
        occupied = self._usage.by_version() if policy.budget_bytes else {}
        other_bytes = self._unfinished_bytes() if policy.budget_bytes else 0

        def used_without(removed: Collection[Version]) -> int:
            return usage.bytes_without(occupied, removed) + other_bytes

        volumes, desired = self._state.volumes(), list(self._state.all_desired())
        if not keep_fallbacks:
            desired = [_without_fallback(row) for row in desired]
        pinned = preload.list_pinned(self._data, {row.version for row in desired}, self._now())
        with self._store.removal():
            references = find_references(
                self._data, self._mounts(), volumes, desired, {*self._installing(), *pinned}, dynakube_names
            )
            stored = self._store.versions()
            self._state.mark_used(version for version in stored if version in references.versions)
            unused = [version for version in stored if version not in references.versions]
            records = self._state.versions
            removed = select_expired(unused, records, policy, used_without, self._now())[:at_most]
            for version in removed:
                self._store.remove(version)
                self._failpoint("version in the trash")
                log.info("version removed", extra=logs.fields(version=version))
            self._discard_layers(references)
            self._discard_host_agents(references)
        self._delete_downloads(references.versions)
        corruption_log.prune(self._data, volumes, set(stored) - set(removed), references.versions)
        for version in set(records) - set(stored) - references.versions | set(removed):
            self._state.drop_version(version)
            with contextlib.suppress(KeyError):
                self._metrics.store_bytes.remove(*store_key.split(version))
        return removed

    def _discard_layers(self, references: References) -> None:
        for tenant in [entry for entry in self._data.config_layers.iterdir() if entry.is_dir()]:
            for layer in tenant.iterdir():
                if str(layer) not in references.layers:
                    self._data.discard(layer)
            with contextlib.suppress(OSError):
                tenant.rmdir()

    def _discard_host_agents(self, references: References) -> None:
        for host in self._data.host_agents.iterdir():
            if host.name not in references.hosts:
                self._data.discard(host)
                log.info("host agent's directory removed", extra=logs.fields(dynakube=host.name))

    def _delete_downloads(self, needed: frozenset[Version]) -> None:
        """Delete download files and file manifests without a version."""
        for file in self._data.tmp.iterdir():
            version = download_files.parse_version(file.name)
            if version is not None and version not in needed:
                file.unlink(missing_ok=True)
        versions = {*needed, *self._store.versions()}
        for manifest in self._data.manifests.glob("[!.]*.json"):
            if manifest.stem not in versions:
                self._data.discard(manifest)

    def empty_trash(self) -> None:
        """Delete the trash, except for entries that a mount still uses."""
        self._metrics.reclaimed_bytes.labels("trash").inc(self._trash.empty())

    def _measure(self) -> None:
        with contextlib.suppress(OSError):
            self._metrics.disk_bytes.set(self._usage.total_bytes())
            self._metrics.trash_bytes.set(self._trash.size_bytes())
        for version, record in self._state.versions.items():
            if record.size_bytes:
                self._metrics.store_bytes.labels(*store_key.split(version)).set(record.size_bytes)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


DEFAULT: Final = RetentionPolicy()
