"""The digest of the image that a DynaKube names, and the key that has signed it.

A tag is looked up once per poll: the digest that is verified is the digest that is fetched, wherever the tag moves
to. With the pull policy `IfNotPresent` the first digest stays, with `Never` the name has to have one. If the image
must be signed, an unsigned one is not followed, and the last signed one stays. A registry that fails
to answer changes nothing.
"""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from oneagent.common import dynakube as dynakubes
from oneagent.common import logs, unpack
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, NotFoundError
from oneagent.common.oci import hosts, public_keys, pull_secret
from oneagent.common.oci import image as oci_image
from oneagent.common.oci.public_keys import PublicKey
from oneagent.common.oci.reference import ImageName, LayoutReference
from oneagent.common.tenant import inputs
from oneagent.common.tenant.inputs import ObjectReader

log = logging.getLogger(__name__)

_NO_PULL_REMEDY: Final = "codeModulesImagePullPolicy is Never: add the image's digest, and preload it on the nodes"

_EXPECTED_ERRORS = (
    download.DownloadError,
    errors.HttpError,
    http_client.InvalidSettingsError,
    unpack.PackageError,
    public_keys.InvalidPublicKeysError,
    ApiError,
)
"""Errors whose text has the remedy."""


@dataclass(frozen=True, slots=True)
class ImageState:
    """The last answers about the image of one `codeModulesImage`."""

    name: str = ""
    image: ImageName | None = None
    """With its digest; None if it was never resolved, or if no signed image was found yet."""
    keys: frozenset[str] | None = None
    """Fingerprints of the keys that the image must be signed with; None until they could be read."""
    problem: str = ""
    """The reason why the last poll failed."""
    is_forbidden: bool = False
    """This process may not read a Secret or ConfigMap that the poll needs, perhaps not yet."""
    retry_after: float | None = None

    @property
    def digest(self) -> str:
        return self.image.digest if self.image else ""


class SignatureStore(Protocol):
    """Digests and the fingerprints of the keys that have signed them. A signature stays true."""

    def is_signed(self, digest: str, fingerprints: Collection[str]) -> bool:
        """Return True if one of these keys is known to have signed the digest."""
        ...

    def verify(self, image: ImageName, access: oci_image.Access, keys: Sequence[PublicKey]) -> None:
        """Ask the registry and remember the signer; `UnsignedImageError`, `HttpError`, `InvalidSettingsError`."""
        ...


class MemorySignatures:
    """A `SignatureStore` that lives as long as the process."""

    def __init__(self) -> None:
        self._signers: dict[str, frozenset[str]] = {}

    def is_signed(self, digest: str, fingerprints: Collection[str]) -> bool:
        return not self._signers.get(digest, frozenset()).isdisjoint(fingerprints)

    def verify(self, image: ImageName, access: oci_image.Access, keys: Sequence[PublicKey]) -> None:
        signer = find_signer(image, access, keys)
        self._signers[image.digest] = self._signers.get(image.digest, frozenset()) | {signer}


def find_signer(image: ImageName, access: oci_image.Access, keys: Sequence[PublicKey]) -> str:
    """Return the fingerprint of the key that has signed an image."""
    # The only place that needs cryptography, which costs 8 MiB: most nodes never come here.
    from oneagent.common.oci import signatures

    return signatures.find_signer(image, access, keys).fingerprint


def resolve(
    dynakube: DynaKube,
    image: ImageName,
    objects: ObjectReader,
    before: ImageState,
    registries: hosts.Registries,
    signatures: SignatureStore,
) -> ImageState:
    """Resolve the image's name and verify its signature. For a thread; never raises for what a registry may do."""
    state = before if before.name == dynakube.package else ImageState(dynakube.package)
    state = replace(state, problem="", is_forbidden=False, retry_after=None)
    is_layout = isinstance(image, LayoutReference)
    if dynakube.pull_policy == dynakubes.FIRST_DIGEST and not is_layout:
        image = state.image or image
    if dynakube.pull_policy == dynakubes.NO_PULL and not is_layout and not image.digest:
        return replace(state, image=None, problem=f"{image}: {_NO_PULL_REMEDY}")
    try:
        keys = read_keys(dynakube, objects)
        state = replace(state, keys=frozenset(key.fingerprint for key in keys))
        if image.digest and signatures.is_signed(image.digest, state.keys or ()):
            return replace(state, image=image)
        access = oci_image.Access() if is_layout else registry_access(dynakube, objects, registries)
        with oci_image.Image(image, access) as opened:
            resolved = image.at(opened.digest())
        if keys and not signatures.is_signed(resolved.digest, state.keys or ()):
            signatures.verify(resolved, access, keys)
        return replace(state, image=resolved)
    except _EXPECTED_ERRORS as error:
        log.warning("image not resolved", extra=logs.fields(dynakube=dynakube.name, reason=error))
        if isinstance(error, public_keys.InvalidPublicKeysError):
            state = replace(state, keys=frozenset())
        return replace(
            state,
            problem=str(error),
            is_forbidden=isinstance(error, ForbiddenError),
            retry_after=getattr(error, "retry_after", None) or None,
        )
    except Exception as error:
        # URLs, certificates and proxies of users reach the libraries below: a fault is one of this image alone.
        log.exception("image not resolved", extra=logs.fields(dynakube=dynakube.name))
        return replace(state, problem=f"{type(error).__name__}: {error}")


def registry_access(dynakube: DynaKube, objects: ObjectReader, registries: hosts.Registries) -> oci_image.Access:
    """Return how to reach the registry of a DynaKube's image; `InvalidSettingsError`, or `ApiError`."""
    http = inputs.http_settings(dynakube, objects)
    return oci_image.Access(_keyring(dynakube, objects), registries, http)


def _keyring(dynakube: DynaKube, objects: ObjectReader) -> pull_secret.Keyring:
    if dynakube.pull_secret:
        where = f"the secret {dynakube.pull_secret}"
        text = _secret(objects, dynakube.pull_secret).get(pull_secret.DOCKER_CONFIG_KEY, "")
        if not text:
            raise http_client.InvalidSettingsError(
                f"{where}: has no key {pull_secret.DOCKER_CONFIG_KEY}: a pull secret is needed"
            )
        return pull_secret.parse(text, where)
    tokens = _secret(objects, dynakube.tokens_secret)
    token = tokens.get("paasToken", "") or tokens.get("apiToken", "")
    if not (dynakube.tenant and token):
        return pull_secret.Keyring()
    # The tenant's own registry accepts the tenant's token.
    host = urllib.parse.urlsplit(dynakube.api_url).netloc.lower()
    return pull_secret.for_registry(host, pull_secret.Credentials(dynakube.tenant, token))


def read_keys(dynakube: DynaKube, objects: ObjectReader) -> tuple[PublicKey, ...]:
    """Return the keys that an image may be signed with; none if it need not be signed.

    `InvalidPublicKeysError` if there are no usable keys, `ApiError` if they cannot be read now.
    """
    content = None
    if dynakube.image_key and not public_keys.is_pem(dynakube.image_key):
        content = _secret_or_none(objects, dynakube.image_key)
    return public_keys.from_setting(dynakube.image_key, content, dynakubes.IMAGE_KEY_ENTRY)


def _secret(objects: ObjectReader, name: str) -> dict[str, str]:
    return dict(_secret_or_none(objects, name) or {})


def _secret_or_none(objects: ObjectReader, name: str) -> dict[str, str] | None:
    try:
        return dict(objects.secret(name))
    except NotFoundError:
        return None
