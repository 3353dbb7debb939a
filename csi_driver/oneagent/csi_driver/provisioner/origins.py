"""Where a version's package comes from: the DynaKube's tenant, or an archive on the node.

Secrets and ConfigMaps are read here, over the network as it may be, so `package` belongs into an install's own
thread and not into the loop.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from oneagent.common import downloads, dynakube, httpclient, packageendpoint, pagecache, tenant
from oneagent.common.names import Version
from oneagent.csi_driver import sources
from oneagent.csi_driver.provisioner import tenants

_DIGEST = "sha256-"


def settings(kube: dynakube.DynaKube) -> tuple[object, ...]:
    """What of a DynaKube decides how its tenant or archive is reached: after a change of it, trying again pays."""
    return (
        *(kube.api_url, kube.tokens_secret, kube.network_zone, kube.proxy, kube.proxy_secret, kube.no_proxy),
        *(kube.trusted_cas, kube.skip_cert_check, kube.host_group, kube.package, kube.tenant, kube.technologies),
    )


def package(kube: dynakube.DynaKube, version: Version, source: sources.Source) -> downloads.Source:
    """Where to fetch a version; `SourceError` or `InvalidSettings` if that can't be told."""
    if kube.package_file is not None:
        return downloads.LocalFile(kube.package_file)
    if kube.package:
        raise httpclient.InvalidSettings(
            f"codeModulesImage: {kube.package!r} is an image; only file:///… archives are supported so far"
        )
    return tenant.package(tenants.access(kube, source), version, technologies=kube.technologies)


def mirrored(kube: dynakube.DynaKube, version: Version) -> packageendpoint.Package | None:
    """What to ask a mirror for; None for what only the DynaKube's own source has."""
    if kube.package or kube.package_file is not None:
        return None
    try:
        return packageendpoint.Package(kube.name, version, platform.machine(), technologies=tuple(kube.technologies))
    except httpclient.InvalidSettings:
        return None


def sha256(kube: dynakube.DynaKube, version: Version) -> str:
    """The digest that the package must have: an archive without a version is named by it, and may change meanwhile."""
    if kube.package_file is not None and version.startswith(_DIGEST):
        return version.removeprefix(_DIGEST)
    return ""


class Archives:
    """The versions of local archives that come without one: known by what is in them."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], Version]] = {}

    def version(self, archive: Path) -> Version | None:
        """Hashed once for each change of the file; None while it can't be read."""
        try:
            status = archive.stat()
            stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known.get(archive)
            if known is None or known[0] != stamp:
                with archive.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    pagecache.drop_read(file.fileno())
                known = self._known[archive] = (stamp, Version(_DIGEST + digest))
        except OSError:
            return None
        return known[1]
