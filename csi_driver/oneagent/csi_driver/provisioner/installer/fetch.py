"""The package of a version: from the mirror if it has one, otherwise from the next DynaKube that uses the version.

A package is kept until it is unpacked, so that a full disk costs no second download. It is reused only while the
source is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oneagent.common import unpack
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import download
from oneagent.common.identifiers import StoreKey
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources import PackageSources
from oneagent.csi_driver.provisioner.package_sources.mirror import MirrorZip
from oneagent.csi_driver.provisioner.package_sources.package_source import Package, PackageSource


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """A version to install, and the DynaKubes that use it. Each attempt reads from the source of the next one."""

    version: StoreKey
    dynakubes: tuple[DynaKube, ...]
    delayed_seconds: float = field(default=0.0, compare=False)
    """How long the node has waited already since it could know of the version."""

    @property
    def settings(self) -> tuple[object, ...]:
        """After a change of these, a failed install is retried at once."""
        return tuple(package_sources.fetch_settings(dynakube) for dynakube in self.dynakubes)

    def has_settings_of(self, dynakube: DynaKube) -> bool:
        """Return True if a package is fetched for one of the DynaKubes as it is for this one."""
        return package_sources.fetch_settings(dynakube) in self.settings

    def source(self, failures: int) -> DynaKube:
        """Return the DynaKube from whose source the next attempt reads."""
        return self.dynakubes[failures % len(self.dynakubes)]

    @property
    def is_content_addressed(self) -> bool:
        return all(package_sources.find_kind(dynakube).IS_CONTENT_ADDRESSED for dynakube in self.dynakubes)


@dataclass(slots=True)
class RetryState:
    """Results of earlier attempts."""

    package: Package | None = None
    """A package that was downloaded and is not unpacked yet."""
    source: PackageSource | None = None
    """The source of `package`."""
    mirror_rejected: bool = False
    """The mirror's package is no agent."""


class SpaceMaker(Protocol):
    """Space on the disk."""

    def make_room(self, needed_bytes: int) -> None:
        """Remove unused versions until `needed_bytes` fit; `NoSpaceError` if they do not."""
        ...

    def evict(self) -> bool:
        """Remove one unused version from a disk that is full by any limit; False without one."""
        ...

    def free_bytes(self, directory: Path) -> int:
        """Return the bytes that may still be used: of the disk, and of the budget."""
        ...


class Fetcher:
    """Thread-safe for different versions."""

    def __init__(
        self,
        data: DataDir,
        state: ProvisionerState,
        space: SpaceMaker,
        sources: PackageSources,
        metrics: ProvisionerMetrics,
        on_change: Callable[[], None],
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._data = data
        self._state = state
        self._space = space
        self.sources = sources
        self._metrics = metrics
        self._on_change = on_change
        self._failpoint = failpoint

    def fetch(self, request: InstallRequest, failures: int, retry: RetryState, cancelled: threading.Event) -> Package:
        """Return the package; `failures` is the number of failed attempts before this one."""
        version = request.version
        dynakube = request.source(failures)
        if not retry.mirror_rejected and (mirror := self.sources.open_mirror(dynakube, version)):
            usable = retry.package is None or retry.source == mirror
            if usable and (package := self._fetch_from(mirror, version, retry, cancelled)):
                return package
        package = self._fetch_from(self.sources.open(dynakube, version), version, retry, cancelled)
        assert package is not None, "only a mirror returns no package"
        return package

    def reject(self, retry: RetryState, package: Package, error: unpack.PackageError) -> None:
        """Discard a package that is no agent; if it is the mirror's, the next attempt goes to the tenant."""
        if isinstance(retry.source, MirrorZip):
            retry.mirror_rejected = True
            retry.source.reject(error)
        self.discard(retry, package)

    def discard(self, retry: RetryState, package: Package) -> None:
        """Delete a package, so that the next attempt downloads it again."""
        retry.package = retry.source = None
        package.delete()

    def _fetch_from(
        self, source: PackageSource, version: StoreKey, retry: RetryState, cancelled: threading.Event
    ) -> Package | None:
        """Return the package of an earlier attempt if it is from this source; otherwise download it."""
        self._state.put_version(version, VersionState.DOWNLOADING, source=source.location)
        self._on_change()
        if retry.package is not None and retry.source == source:
            return retry.package
        self._space.make_room(0)
        self._failpoint("download begun")
        stem = self._data.tmp / version
        try:
            package = source.fetch(stem, cancelled=cancelled, free=self._space.free_bytes)
        except download.DiskFullError as error:
            if error.needed:
                self._space.make_room(error.needed)
            elif not self._space.evict():
                raise
            package = source.fetch(stem, cancelled=cancelled, free=self._space.free_bytes)
        if package is not None and package.is_temporary:
            self._metrics.download_seconds.observe(sum(file.seconds for file in package.files))
            self._metrics.downloaded_bytes.inc(sum(file.size - file.resumed_at for file in package.files))
            retry.package, retry.source = package, source
        return package
