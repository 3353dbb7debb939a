"""Package sources: one module for each kind. A new kind is a new module and one line in `_KINDS`.

Secrets and ConfigMaps are read when a source is opened, possibly over the network. So sources are opened in the
thread of an install, never in the reconcile loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import StoreKey, Version
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import inputs
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.csi_driver.provisioner.package_sources import image, local_zip, tenant_zip
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror, MirrorZip
from oneagent.csi_driver.provisioner.package_sources.package_source import PackageSource
from oneagent.csi_driver.store import store_key


class SourceKind(Protocol):
    """The interface of a module in this directory."""

    @property
    def IS_CONTENT_ADDRESSED(self) -> bool:
        """The key is a digest of the content: if that is no agent, it never will be."""
        ...

    def is_source_of(self, dynakube: DynaKube, /) -> bool:
        """Return True if the DynaKube's package comes from this kind of source."""
        ...

    def content_key(self, dynakube: DynaKube, /) -> StoreKey | None:
        """Return the key by the package's content now; None if it cannot be read, or if its name decides."""
        ...

    def version_key(self, dynakube: DynaKube, version: Version, /) -> StoreKey | None:
        """Return the key of a version that the tenant or the user names; None if only a digest names the content."""
        ...

    def serves(self, dynakube: DynaKube, key: Version, /) -> bool:
        """Return True if the DynaKube's source is the one that a key names, or its content is checked against it."""
        ...

    def fingerprint(self, dynakube: DynaKube, /) -> str:
        """Return a text that changes as soon as the package must be resolved again; cheap, asked every second."""
        ...

    def open_source(
        self, dynakube: DynaKube, key: StoreKey, objects: ObjectReader, registries: Registries, /
    ) -> PackageSource:
        """Return the source of a version that it serves; `InvalidSettingsError`, or `ApiError`."""
        ...


_KINDS: Final[Sequence[SourceKind]] = (local_zip, image, tenant_zip)


@dataclass(frozen=True, slots=True)
class PackageSources:
    """The sources that DynaKubes name, and the mirror in the cluster."""

    objects: ObjectReader
    registries: Registries
    mirror: Mirror | None = None

    def open(self, dynakube: DynaKube, key: StoreKey) -> PackageSource:
        """Return the DynaKube's own source; `InvalidSettingsError`, or `ApiError`."""
        return find_kind(dynakube).open_source(dynakube, key, self.objects, self.registries)

    def open_mirror(self, dynakube: DynaKube, key: StoreKey) -> MirrorZip | None:
        """Return the mirror; None if there is none, or if it serves no package of this DynaKube."""
        return self.mirror.open_source(dynakube, key) if self.mirror else None


def find_kind(dynakube: DynaKube) -> SourceKind:
    """Return the kind of source that a DynaKube's package comes from."""
    return next(kind for kind in _KINDS if kind.is_source_of(dynakube))


def version_key(dynakube: DynaKube, version: Version) -> StoreKey | None:
    """Return the store's key of a version of the DynaKube's package; None if only its content names it."""
    return find_kind(dynakube).version_key(dynakube, version)


def key_of_zip(dynakube: DynaKube, version: Version, sha256: str) -> StoreKey | None:
    """Return the key of a zip that an administrator gives for a DynaKube; None if its package is no zip."""
    kind = find_kind(dynakube)
    if kind is local_zip and not (dynakube.decided_version or dynakube.pinned_version):
        return store_key.of_zip(sha256)
    return kind.version_key(dynakube, version)


def serves(dynakube: DynaKube, key: Version) -> bool:
    """Return True if a tree under this key may come from the DynaKube's source."""
    return find_kind(dynakube).serves(dynakube, key)


def fetch_settings(dynakube: DynaKube) -> tuple[object, ...]:
    """Return the fields of a DynaKube that change how a package is fetched: after a change a retry makes sense."""
    return (*inputs.poll_settings(dynakube), dynakube.tenant, dynakube.technologies)


def server_of(dynakube: DynaKube) -> str:
    """Return the server that a DynaKube's package comes from: its registry, its tenant, or the package on the node."""
    return dynakube.image.registry if dynakube.image is not None else dynakube.package or dynakube.api_url
