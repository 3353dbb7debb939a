"""Verification that an image is signed with a key, by both ways in which cosign stores signatures.

    a tag       `sha256-HEX.sig` in the image's repository, whose layers are signed payloads
    referrers   Sigstore bundles that refer to the image, listed by the registry or below the tag `sha256-HEX`

The signed text is a digest: the one that the image's name points to. For an image for several machines that is its
index, which names all others by their digests. One valid signature is enough.

The image name in a payload is ignored, as in cosign: a mirrored image keeps its signature. Only the registry and its
mirrors are asked. Transparency logs and certificates do not count: the key is known.

    UnsignedImageError      no such signature
    HttpError               the registry did not answer
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from oneagent.common import logs, typed_json, unpack
from oneagent.common.http import errors
from oneagent.common.oci import cosign_payload, http, manifest, signature_keys
from oneagent.common.oci import image as oci_image
from oneagent.common.oci.image import ImageSource
from oneagent.common.oci.public_keys import PublicKey
from oneagent.common.oci.reference import ImageName

log = logging.getLogger(__name__)

_MAX_SIGNATURES: Final = 32
"""Signatures of each kind that are read: a user with write access to a registry must not keep every node busy."""
_MAX_EXPLANATION: Final = 300
_MAYBE_BUNDLES: Final = (cosign_payload.BUNDLE, "application/vnd.oci.empty.v1+json", "")
"""Types of referrers to read. Where cosign writes the list itself, it lists the type of a bundle's empty configuration,
which is the type of everything without a configuration."""


class _Layer(msgspec.Struct):
    digest: str
    size: int
    mediaType: str = ""
    annotations: dict[str, str] | None = None

    @property
    def descriptor(self) -> manifest.Descriptor:
        return manifest.Descriptor(self.digest, self.size)


class _Stored(msgspec.Struct):
    layers: list[_Layer] = []


class _Referrer(msgspec.Struct):
    digest: str
    artifactType: str = ""


class _Referrers(msgspec.Struct):
    manifests: list[_Referrer] = []


_FetchClaim = Callable[[], cosign_payload.Claim | None]
"""Fetches a claim; None for content that is no signature."""


def find_signer(image: ImageName, access: oci_image.Access, keys: Sequence[PublicKey]) -> PublicKey:
    """Return the key that signed an image. `image` has a digest."""
    signature_keys.check_usable(keys)
    with oci_image.open_sources(image, access) as sources:
        *mirrors, own = sources
        for mirror in mirrors:
            try:
                return _find_in_source(mirror, image, keys)
            except (errors.HttpError, unpack.UnsignedImageError) as error:
                details = logs.fields(image=image.name, mirror=mirror.host, reason=error)
                log.warning("no valid signature on image mirror, trying the next host", extra=details)
        return _find_in_source(own, image, keys)


def _find_in_source(source: ImageSource, image: ImageName, keys: Sequence[PublicKey]) -> PublicKey:
    failure: errors.HttpError | unpack.PackageError | None = None
    reasons: list[str] = []
    for kind in (_by_tag, _by_referrers):
        try:
            for fetch in itertools.islice(kind(source, image.digest), _MAX_SIGNATURES):
                try:
                    if claim := fetch():
                        return _verify_claim(claim, image.digest, keys)
                except cosign_payload.NotASignatureError as reason:
                    reasons.append(str(reason))
                except (errors.HttpStatusError, errors.UnexpectedResponseError, unpack.CorruptPackageError) as error:
                    failure = error  # the next one may be there
        except errors.HttpError as error:
            failure = error
    if failure is not None:
        raise failure
    raise unpack.UnsignedImageError(_explain(image, reasons))


def _verify_claim(claim: cosign_payload.Claim, digest: str, keys: Sequence[PublicKey]) -> PublicKey:
    key = signature_keys.find_signer(keys, claim.message, claim.signature)
    if key is None:
        raise cosign_payload.NotASignatureError("is by none of the keys")
    if digest not in (signed := claim.read_digests()):
        raise cosign_payload.NotASignatureError(f"is of another image ({', '.join(sorted(signed))[:100]})")
    return key


def _explain(image: ImageName, reasons: Sequence[str]) -> str:
    what = f"{image.name}@{image.digest}"
    if not reasons:
        return (
            f"{what} is not signed: it has neither a tag {_tag_prefix(image.digest)}.sig nor a bundle that refers to it"
        )
    explanation = "; ".join(dict.fromkeys(reasons))[:_MAX_EXPLANATION]
    return f"{what} is not signed with a required key: its signature {explanation}"


def _tag_prefix(digest: str) -> str:
    return digest.replace(":", "-", 1)


def _by_tag(source: ImageSource, digest: str) -> Iterator[_FetchClaim]:
    tag = f"{_tag_prefix(digest)}.sig"
    for body in source.find_by_tag(tag):
        for layer in http.decode(body, _Stored, tag).layers:
            signature = (layer.annotations or {}).get(cosign_payload.SIGNATURE, "")
            if layer.mediaType == cosign_payload.PAYLOAD and signature:
                yield partial(_fetch_simple, source, layer, signature)


def _fetch_simple(source: ImageSource, layer: _Layer, signature: str) -> cosign_payload.Claim:
    return cosign_payload.parse_simple(source.get_config(layer.descriptor), signature)


def _by_referrers(source: ImageSource, digest: str) -> Iterator[_FetchClaim]:
    failure: errors.HttpStatusError | None = None
    listed: bytes | None = None
    try:
        listed = source.list_referrers(digest, cosign_payload.BUNDLE)
    except errors.HttpStatusError as error:
        failure = error  # A host without such lists may answer anything; the tag is there nevertheless.
    bodies = source.find_by_tag(_tag_prefix(digest)) if listed is None else [listed]
    if failure is not None and not bodies:
        raise failure
    for body in bodies:
        for referrer in http.decode(body, _Referrers, f"referrers of {digest}").manifests:
            if referrer.artifactType in _MAYBE_BUNDLES:
                yield partial(_fetch_bundle, source, referrer.digest)


def _fetch_bundle(source: ImageSource, digest: str) -> cosign_payload.Claim | None:
    stored = http.decode(source.get_manifest(digest), _Stored, digest)
    for layer in stored.layers:
        if layer.mediaType == cosign_payload.BUNDLE:
            return cosign_payload.parse_bundle(source.get_config(layer.descriptor))
    return None


typed_json.prepare(_Stored, _Referrers)
