"""The package of a version, from the mirror if that has it, else from the DynaKube whose turn it is.

What has been fetched is kept while it is not unpacked, so that a full disk does not cost a second download. It is
of use only as long as it would be fetched from the same place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oneagent.common import package_client, unpack
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror
from oneagent.csi_driver.provisioner.package_sources.supplies import Mirrored, Package, PackageSource
from oneagent.csi_driver.provisioner.room import Room


@dataclass(frozen=True, slots=True)
class Request:
    """A version to install; `prepare` sees the finished tree before anybody else does.

    `origins` tell where its package is, one for each DynaKube that wants it. They may ask the API server and raise
    `ApiError` or `InvalidSettingsError`. A failed request that comes with other `settings` is tried again at once.
    """

    version: Version
    origins: tuple[Callable[[], PackageSource], ...]
    prepare: Callable[[Version, Path], None]
    settings: tuple[object, ...] = ()
    mirrored: tuple[package_client.Package | None, ...] = ()
    """What a mirror has of it, for each of `origins`; None for what no mirror has."""
    fixed: bool = False
    """The version is named by what is in it: if that is no agent, it never will be."""


@dataclass(slots=True)
class Kept:
    """What earlier tries of an install have left."""

    package: tuple[PackageSource, Package] | None = None
    """The package, and where it came from, if all but its unpacking has worked."""
    mirror_spoilt: bool = False
    """The mirror has sent what is no agent."""


class Fetcher:
    """Thread-safe for different versions."""

    def __init__(
        self,
        folder: DataDir,
        records: ProvisionerState,
        room: Room,
        metrics: ProvisionerMetrics,
        mirror: Mirror | None,
        changed: Callable[[], None],
        failpoint: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._records = records
        self._room = room
        self._metrics = metrics
        self.mirror = mirror
        self._changed = changed
        self._failpoint = failpoint

    def fetch(self, request: Request, tries: int, kept: Kept, cancelled: threading.Event) -> Package:
        """The package; `tries` have failed, and each asks the next origin."""
        number = tries % len(request.origins)
        wanted = request.mirrored[number] if request.mirrored else None
        if self.mirror is not None and wanted is not None and not kept.mirror_spoilt:
            supply = Mirrored(self.mirror, wanted)
            usable = kept.package is None or kept.package[0] == supply
            if usable and (package := self._fetched(request.version, supply, kept, cancelled)):
                return package
        package = self._fetched(request.version, request.origins[number](), kept, cancelled)
        assert package is not None, "an origin has the package or raises"
        return package

    def spoilt(self, kept: Kept, package: Package, error: unpack.PackageError) -> None:
        """The package is no agent: it would be damaged again, so the next try fetches it anew.

        If it is the mirror's, the next try asks the tenant.
        """
        supply = kept.package[0] if kept.package else None
        if isinstance(supply, Mirrored):
            kept.mirror_spoilt = True
            supply.mirror.pass_over(supply.package, "wrong_content", error)
        self.forget(kept, package)

    def forget(self, kept: Kept, package: Package) -> None:
        """The next try fetches the package anew."""
        kept.package = None
        package.remove()

    def _fetched(
        self, version: Version, supply: PackageSource, kept: Kept, cancelled: threading.Event
    ) -> Package | None:
        """What a supply brings, with room made for it; what an earlier try has brought, if that is from there."""
        self._records.put_version(version, VersionState.DOWNLOADING, source=supply.place)
        self._changed()
        if kept.package is not None and kept.package[0] == supply:
            return kept.package[1]
        self._room.make(0)
        self._failpoint("download begun")
        stem = self._folder.tmp / version
        try:
            package = supply.fetch(stem, cancelled=cancelled, free=self._room.free)
        except download.DiskFullError as error:
            if not error.needed:
                raise
            self._room.make(error.needed)
            package = supply.fetch(stem, cancelled=cancelled, free=self._room.free)
        if package is not None and package.is_temporary:
            self._metrics.download_seconds.observe(sum(file.seconds for file in package.files))
            self._metrics.downloaded_bytes.inc(sum(file.size - file.resumed_at for file in package.files))
            kept.package = supply, package
        return package
