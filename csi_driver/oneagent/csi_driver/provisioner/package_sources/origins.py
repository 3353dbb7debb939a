"""Where a version's package comes from: the DynaKube's tenant, an image, or what is on the node.

Secrets and ConfigMaps are read here, over the network as it may be, so `supply` belongs into an install's own
thread and not into the loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import platform
import urllib.parse
from pathlib import Path

from oneagent.common import dynakube, logs, package_client, page_cache, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import Version
from oneagent.common.kubernetes import errors as api_errors
from oneagent.common.oci import hosts, public_keys, pull_secret
from oneagent.common.oci import image as oci_image
from oneagent.common.oci import reference as oci_reference
from oneagent.common.tenant import client as tenant_client
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.provisioner import signature_cache, tenants
from oneagent.csi_driver.provisioner.package_sources import supplies
from oneagent.csi_driver.provisioner.package_sources.supplies import PackageSource
from oneagent.csi_driver.provisioner.tenants import TenantState

log = logging.getLogger(__name__)

_DIGEST = "sha256-"


def settings(kube: dynakube.DynaKube) -> tuple[object, ...]:
    """What of a DynaKube decides how its tenant or archive is reached: after a change of it, trying again pays."""
    return (
        *(kube.api_url, kube.tokens_secret, kube.network_zone, kube.proxy, kube.proxy_secret, kube.no_proxy),
        *(kube.trusted_cas, kube.skip_cert_check, kube.host_group, kube.package, kube.tenant, kube.technologies),
        *(kube.pull_secret, kube.image_key),
    )


def supply(
    kube: dynakube.DynaKube, version: Version, source: dynakube_sources.DynaKubeSource, rules: hosts.Registries
) -> PackageSource:
    """Where to fetch a version; `ApiError` or `InvalidSettingsError` if that can't be told."""
    if kube.package_file is not None:
        # An archive without a version is named by its digest, and may change meanwhile.
        digest = version.removeprefix(_DIGEST) if version.startswith(_DIGEST) else ""
        return supplies.Archive(download.LocalFile(kube.package_file), digest)
    if kube.image_folder is not None:
        return supplies.Image(kube.image_folder.at(digest_of(version)), oci_image.Access())
    if kube.image is not None:
        return supplies.Image(kube.image.at(digest_of(version)), registry(kube, source, rules))
    return supplies.Archive(
        tenant_client.package(tenants.access(kube, source), version, technologies=kube.technologies)
    )


def registry(
    kube: dynakube.DynaKube, source: dynakube_sources.DynaKubeSource, rules: hosts.Registries
) -> oci_image.Access:
    """How to reach the registry of a DynaKube's image, with its secrets."""
    if kube.pull_secret:
        where = f"the secret {kube.pull_secret}"
        text = source.secret(kube.pull_secret).get(pull_secret.DOCKER_CONFIG_KEY, "")
        if not text:
            raise http_client.InvalidSettingsError(
                f"{where}: has no key {pull_secret.DOCKER_CONFIG_KEY}: a pull secret is needed"
            )
        return oci_image.Access(pull_secret.parse(text, where), rules, tenants.travel(kube, source))
    # The tenant's own registry takes what the tenant takes.
    token = tenants.access(kube, source).token
    who = pull_secret.Credentials(kube.tenant or "", token)
    host = urllib.parse.urlsplit(kube.api_url).netloc.lower()
    keyring = pull_secret.for_registry(host, who) if kube.tenant else pull_secret.Keyring()
    return oci_image.Access(keyring, rules, tenants.travel(kube, source))


def resolved(
    kube: dynakube.DynaKube,
    image: oci_reference.ImageName,
    facts: TenantState,
    source: dynakube_sources.DynaKubeSource,
    rules: hosts.Registries,
    approved: signature_cache.SignatureCache,
) -> TenantState:
    """The facts with what the image's name stands for now, if it need not be signed or is.

    Never raises for what a registry may do, or a folder may hold.
    """
    facts = dataclasses.replace(facts, refused="")
    try:
        wanted = keys(kube, source)
        facts = dataclasses.replace(facts, keys=frozenset(key.fingerprint for key in wanted))
        if image.digest and approved.good(version_of(image.digest), facts.keys or ()):
            return dataclasses.replace(facts, digest=image.digest)
        access = oci_image.Access() if kube.is_local else registry(kube, source, rules)
        with oci_image.Image(image, access) as found:
            # Looked up once: the bytes that are verified are those that are fetched, wherever the tag moves to.
            digest = found.digest()
        if wanted and not approved.good(version_of(digest), facts.keys or ()):
            approved.ask(version_of(digest), image.at(digest), access, wanted)
        return dataclasses.replace(facts, digest=digest)
    except _KNOWN as error:
        log.warning("the image can't be followed", extra=logs.facts(dynakube=kube.name, reason=error))
        if isinstance(error, public_keys.InvalidPublicKeysError):
            facts = dataclasses.replace(facts, keys=frozenset())
        later = max(facts.retry_after or 0.0, getattr(error, "retry_after", None) or 0.0)
        refused = str(error) if kube.image_key else ""
        return dataclasses.replace(facts, problem=str(error), refused=refused, retry_after=later or None)


def keys(kube: dynakube.DynaKube, source: dynakube_sources.DynaKubeSource) -> tuple[public_keys.PublicKey, ...]:
    """The keys that a DynaKube's image may be signed with; none if it need not be.

    `InvalidPublicKeysError` if there are none that could have signed it, `ApiError` if that can't be told now.
    """
    content = None
    if kube.image_key and not public_keys.is_pem(kube.image_key):
        with contextlib.suppress(api_errors.NotFoundError):
            content = source.secret(kube.image_key)
    return public_keys.from_setting(kube.image_key, content, dynakube.IMAGE_KEY_ENTRY)


_KNOWN = (
    download.DownloadError,
    errors.HttpError,
    http_client.InvalidSettingsError,
    unpack.PackageError,
    public_keys.InvalidPublicKeysError,
    api_errors.ApiError,
)
"""Why an image can't be followed: each says what to do about it."""


def version_of(digest: str) -> Version:
    """The version that an image is, by its digest."""
    return Version(digest.replace(":", "-", 1))


def digest_of(version: Version) -> str:
    """The digest of the image that a version is."""
    return version.replace("-", ":", 1)


def mirrored(kube: dynakube.DynaKube, version: Version) -> package_client.Package | None:
    """What to ask a mirror for; None for what only the DynaKube's own source has."""
    if kube.package:
        return None
    try:
        return package_client.Package(kube.name, version, platform.machine(), technologies=tuple(kube.technologies))
    except http_client.InvalidSettingsError:
        return None


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
                    page_cache.drop_read(file.fileno())
                known = self._known[archive] = (stamp, Version(_DIGEST + digest))
        except OSError:
            return None
        return known[1]
