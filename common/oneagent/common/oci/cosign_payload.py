"""Content of an image's signatures, in the two forms that cosign writes.

    simple      "simple signing": a JSON payload with the image's digest, and the signature beside it
    bundle      Sigstore's bundle 0.3: an in-toto statement in a DSSE envelope, with its signature

The signed bytes are kept as they came and parsed only after their signature was verified. Certificates, time stamps
and log proofs in a bundle are ignored: the key is known.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from oneagent.common import foreign_json, typed_json

PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
"""Annotation of a payload's descriptor that holds the signature."""
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

_SIMPLE: Final = "cosign container image signature"
_ENVELOPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_SIGNED: Final = "https://sigstore.dev/cosign/sign/v1"
"""Predicate by which cosign states that an image is signed, and nothing about its origin or contents."""

_T = TypeVar("_T")


class NotASignatureError(ValueError):
    """Reason why it is no signature of an image; begins with a verb."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A message and its signature. `read_digests` returns the signed digests, once the signature is verified."""

    message: bytes
    signature: bytes
    read_digests: Callable[[], frozenset[str]]


# The names are those of the documents.


class _Image(msgspec.Struct):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _Critical(msgspec.Struct):
    image: _Image
    type: str


class _Payload(msgspec.Struct):
    critical: _Critical


class _Signature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct):
    payload: str
    payloadType: str
    signatures: list[_Signature]


class _Bundle(msgspec.Struct):
    mediaType: str
    dsseEnvelope: _Envelope | None = None


class _Subject(msgspec.Struct):
    digest: dict[str, str] = {}


class _Statement(msgspec.Struct):
    type: str = msgspec.field(name="_type")
    predicateType: str
    subject: list[_Subject]


def parse_simple(payload: bytes, signature: str) -> Claim:
    """Parse a payload and the annotation of its descriptor."""

    def read_digests() -> frozenset[str]:
        critical = _decode(payload, _Payload, "payload").critical
        if critical.type != _SIMPLE:
            raise NotASignatureError(f"is of the type {critical.type[:80]!r} and not {_SIMPLE!r}")
        return frozenset((critical.image.digest,))

    return Claim(payload, _decode_base64(signature, "signature"), read_digests)


def parse_bundle(body: bytes) -> Claim:
    """Parse a bundle as it is stored."""
    document = _decode(body, _Bundle, "bundle")
    if document.mediaType != BUNDLE:
        raise NotASignatureError(f"is a bundle {document.mediaType[:80]!r} and not {BUNDLE!r}")
    envelope = document.dsseEnvelope
    if envelope is None:
        raise NotASignatureError("is a bundle without a statement")
    if envelope.payloadType != _ENVELOPE:
        raise NotASignatureError(f"has a statement of the type {envelope.payloadType[:80]!r} and not {_ENVELOPE!r}")
    if len(envelope.signatures) != 1:
        raise NotASignatureError(f"is a bundle with {len(envelope.signatures)} signatures: one is needed")
    statement = _decode_base64(envelope.payload, "statement")
    # DSSE's "pre-authentication encoding": type and statement, each with its length before it.
    message = b"DSSEv1 %d %s %d %s" % (len(_ENVELOPE), _ENVELOPE.encode(), len(statement), statement)
    return Claim(message, _decode_base64(envelope.signatures[0].sig, "signature"), lambda: _subject_digests(statement))


def _subject_digests(body: bytes) -> frozenset[str]:
    statement = _decode(body, _Statement, "statement")
    if statement.type != _STATEMENT or statement.predicateType != _SIGNED:
        raise NotASignatureError(f"states {statement.predicateType[:80]!r} and not {_SIGNED!r}")
    return frozenset(
        f"sha256:{subject.digest['sha256']}" for subject in statement.subject if "sha256" in subject.digest
    )


def _decode(body: bytes, expected: type[_T], what: str) -> _T:
    try:
        return foreign_json.decode(body, expected)
    except foreign_json.DocumentError as error:
        raise NotASignatureError(f"has a {what} that is not as documented: {error}") from error


def _decode_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotASignatureError(f"has a {what} that is not in base64") from error


typed_json.prepare(_Payload, _Bundle, _Statement)
