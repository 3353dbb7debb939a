"""Garbage collection: what nobody needs goes, what anybody may need stays.

A version may go when no DynaKube wants it, no volume row names it, no overlay in the mount table has it as a lower
layer, and it is not being installed. Config layers go by the same four conditions. If any of these can't be read,
nothing goes. The decision is a pure function of one look at everything; it is taken, and carried out by renames into
the trash, while the store's exclusive lease keeps new mounts from being made. Deleting the trash comes later and may
take its time.

Disk budget: over it, unused versions that are kept for a while (`keep_unused_seconds`) go first, the one whose last
use is longest ago before the others. What is used is never removed; a version that would not fit is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import downloads, logs
from oneagent.common.names import Version
from oneagent.csi_driver import mounttable
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.dynakubes import Wanted
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.mounttable import Mount
from oneagent.csi_driver.paths import DataFolder, VolumeId
from oneagent.csi_driver.provisioner.installs import NoRoom
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.records import Records, VersionRecord
from oneagent.csi_driver.store import AgentStore, StoreBusy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """0 bytes means no limit. Kept logs are those of pods that are gone (see the server's `--keep-logs`)."""

    budget_bytes: int = 0
    reserve_bytes: int = 256 << 20
    keep_unused_seconds: float = 0.0
    keep_logs_seconds: float = 7 * 86400.0
    keep_logs_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Needs:
    """Who may need what: the four conditions, from one look."""

    versions: frozenset[Version]
    layers: frozenset[str]
    """Paths of config layers."""
    hosts: frozenset[str]
    """Names of DynaKubes whose host agent's folder is in use."""


def needs(
    folder: DataFolder,
    mounts: Iterable[Mount],
    volumes: Iterable[VolumeRecord],
    wanted: Iterable[Wanted],
    installing: Iterable[Version],
    known: Iterable[str],
) -> Needs:
    """`known` are the names of all DynaKubes that exist, usable or not."""
    versions = set(installing)
    layers: set[str] = set()
    hosts = set(known)
    for mount in mounts:
        if overlay := mounttable.as_overlay(mount):
            versions |= {version for layer in overlay.lower if (version := folder.version_of_layer(layer))}
            layers |= {layer for layer in overlay.lower if layer.startswith(f"{folder.tenants}/")}
        # A bind mount's source shows as a path within its file system, which may begin elsewhere than ours.
        head, _, name = mount.root.rpartition("/")
        if head.endswith("/hosts"):
            hosts.add(name.removesuffix("//deleted"))
    named = [(row.version, row.tenant, row.layer) for row in volumes]
    named += [(row.version, row.tenant, row.layer) for row in wanted]
    versions |= {Version(version) for version, _, _ in named}
    layers |= {f"{folder.tenants}/{tenant}/{layer}" for _, tenant, layer in named}
    hosts |= {volume.dynakube for volume in volumes if volume.mode == "host"}
    return Needs(frozenset(versions), frozenset(layers), frozenset(hosts))


def expired(
    unused: Iterable[Version], records: Mapping[Version, VersionRecord], policy: Policy, used_bytes: int, now: float
) -> list[Version]:
    """Which unused versions go now: those kept long enough, and as many as bring the disk below its budget."""
    by_last_use = sorted(unused, key=lambda version: _last_use(records, version))
    gone = []
    for version in by_last_use:
        over_budget = bool(policy.budget_bytes) and used_bytes > policy.budget_bytes
        if over_budget or now - _last_use(records, version) >= policy.keep_unused_seconds:
            gone.append(version)
            used_bytes -= records[version].size_bytes if version in records else 0
    return gone


def _last_use(records: Mapping[Version, VersionRecord], version: Version) -> float:
    return records[version].last_used_at if version in records else 0.0


class Collector:
    """Removes what may be removed, and makes room for what is to come (`installs.Room`)."""

    def __init__(
        self,
        folder: DataFolder,
        store: AgentStore,
        records: Records,
        policy: Policy,
        metrics: ProvisionerMetrics,
        *,
        installing: Callable[[], Iterable[Version]],
        known: Callable[[], Iterable[str] | None],
        mounts: Callable[[], list[Mount]] = mounttable.read,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`known` gives the names of all DynaKubes, None as long as nobody has told yet."""
        self._folder = folder
        self._store = store
        self._records = records
        self._policy = policy
        self._metrics = metrics
        self._installing = installing
        self._known = known
        self._mounts = mounts
        self._now = now

    def collect(self) -> list[Version]:
        """One run; the versions that went."""
        result, gone = "ok", []
        try:
            gone = self._retire(self._policy)
            self._expire_logs()
            self.empty_trash()
        except (database.Unavailable, StoreBusy, ValueError, OSError) as error:
            result = "skipped"
            log.warning("nothing is collected for now", extra=logs.facts(reason=error))
        self._metrics.collections.labels(result).inc()
        self._measure()
        return gone

    def make(self, needed_bytes: int) -> None:
        """See `installs.Room`."""
        if self._fits(needed_bytes):
            return
        # As if nothing were kept without need, until there is room.
        strict = Policy(budget_bytes=1, keep_unused_seconds=float("inf"))
        with contextlib.suppress(database.Unavailable, StoreBusy, ValueError, OSError):
            while not self._fits(needed_bytes) and self._retire(strict, at_most=1):
                self.empty_trash()
        if not self._fits(needed_bytes):
            free = self.free(self._folder.root)
            raise NoRoom(
                f"{_mib(needed_bytes)} are needed and {_mib(max(free, 0))} are free "
                f"(disk budget {_mib(self._policy.budget_bytes) if self._policy.budget_bytes else 'none'}, "
                f"reserve {_mib(self._policy.reserve_bytes)}); every version in the store is in use or wanted"
            )

    def free(self, folder: Path) -> int:
        """See `installs.Room`."""
        free = downloads.free_bytes(folder) - self._policy.reserve_bytes
        if self._policy.budget_bytes:
            free = min(free, self._policy.budget_bytes - self.used_bytes())
        return free

    def used_bytes(self) -> int:
        """What counts against the budget: the store, and downloads and trees under way."""
        records = self._records.versions
        stored = sum(records[version].size_bytes for version in self._store.versions() if version in records)
        return stored + _size(self._folder.tmp)

    def _fits(self, needed_bytes: int) -> bool:
        return self.free(self._folder.root) >= needed_bytes

    def _retire(self, policy: Policy, at_most: int = 1 << 30) -> list[Version]:
        """Move what may go into the trash, under the store's exclusive lease.

        Rows are read before it and mounts under it: a publish that comes in between shows in the mount table.
        """
        known = self._known()
        if known is None:
            return []
        used_bytes = self.used_bytes()
        volumes = self._records.volumes()
        with self._store.removal():
            wanted = self._records.wanted.values()
            found = needs(self._folder, self._mounts(), volumes, wanted, self._installing(), known)
            stored = self._store.versions()
            self._records.used(version for version in stored if version in found.versions)
            unused = [version for version in stored if version not in found.versions]
            records = self._records.versions
            gone = expired(unused, records, policy, used_bytes, self._now())[:at_most]
            for version in gone:
                self._store.remove(version)
                log.info("version removed", extra=logs.facts(version=version))
            self._retire_layers(found)
            self._retire_hosts(found)
        for version in set(records) - set(stored) - set(self._installing()) - found.versions | set(gone):
            self._records.drop_version(version)
            with contextlib.suppress(KeyError):
                self._metrics.store_bytes.remove(version)
        self._records.flush()
        return gone

    def _retire_layers(self, found: Needs) -> None:
        for tenant in self._folder.tenants.iterdir():
            for layer in tenant.iterdir():
                if str(layer) not in found.layers:
                    self._folder.discard(layer)
            with contextlib.suppress(OSError):
                tenant.rmdir()

    def _retire_hosts(self, found: Needs) -> None:
        for host in self._folder.hosts.iterdir():
            if host.name not in found.hosts:
                self._folder.discard(host)
                log.info("host agent's folder removed", extra=logs.facts(dynakube=host.name))

    def _expire_logs(self) -> None:
        """Remove kept logs by age, then the oldest until the rest is small enough."""
        entries = sorted(self._folder.logs.iterdir(), key=_kept_at)
        sizes = {entry: _size(entry) for entry in entries}
        total = sum(sizes.values())
        for entry in entries:
            too_old = self._now() - _kept_at(entry) >= self._policy.keep_logs_seconds
            too_much = bool(self._policy.keep_logs_bytes) and total > self._policy.keep_logs_bytes
            if too_old or too_much:
                self._folder.discard(entry)
                total -= sizes[entry]
        self._metrics.log_bytes.set(total)

    def empty_trash(self) -> None:
        """Delete what was thrown away, unless the mount table shows that somebody still has it."""
        entries = list(self._folder.trash.iterdir())
        if not entries:
            return
        mounts = self._mounts()
        uppers = {self._folder.volume_of_upper(overlay.upper or "") for overlay in mounttable.overlays(mounts)}
        for entry in entries:
            volume = VolumeId(entry.name.rpartition(".")[0])
            if volume in uppers or mounttable.at_or_below(mounts, str(entry)):
                continue
            size = _size(entry)
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            self._metrics.reclaimed_bytes.labels("trash").inc(size)

    def _measure(self) -> None:
        for version, record in self._records.versions.items():
            if record.size_bytes:
                self._metrics.store_bytes.labels(version).set(record.size_bytes)


def _kept_at(entry: Path) -> float:
    """The time in `<volume id>@<seconds>`; 0 for anything else, which is then the first to go."""
    try:
        return float(entry.name.rpartition("@")[2].partition(".")[0])
    except ValueError:
        return 0.0


def _size(place: Path) -> int:
    """Bytes on disk at or below a path; what vanishes meanwhile counts nothing."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        status = place.lstat()
        size = status.st_blocks * 512
        if place.is_dir() and not place.is_symlink():
            for _, folders, files, descriptor in os.fwalk(place):
                for name in (*folders, *files):
                    with contextlib.suppress(FileNotFoundError):
                        size += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_blocks * 512
    return size


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


DEFAULT: Final = Policy()
