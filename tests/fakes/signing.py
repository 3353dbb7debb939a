"""Signs images with a key as cosign does, and stores the signatures where cosign does; wrongly on request."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests.fakes import images

PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT: Final = "application/vnd.in-toto+json"
PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
_NOTHING: Final = b"{}"
_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Signer:
    """Owner of a private key."""

    key: _Private
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)

    @property
    def pem(self) -> str:
        """The public key."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    @property
    def private_pem(self) -> str:
        form, unlocked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, form, unlocked).decode()

    def sign(self, message: bytes) -> bytes:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return self.key.sign(message, ec.ECDSA(self.hash))
            case rsa.RSAPrivateKey():
                return self.key.sign(message, padding.PKCS1v15(), self.hash)
            case _:
                return self.key.sign(message)


def signer() -> Signer:
    """With a key as `cosign generate-key-pair` makes it."""
    return Signer(ec.generate_private_key(ec.SECP256R1()))


def payload(digest: str, kind: str = "cosign container image signature") -> bytes:
    critical = {
        "identity": {"docker-reference": "elsewhere.example/as/it/was"},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def simple(signer: Signer, signed: bytes) -> tuple[bytes, str]:
    """A payload and its annotation."""
    return signed, text(signer.sign(signed))


def beside(*payloads: tuple[bytes, str]) -> images.Image:
    """Image for the tag `sha256-HEX.sig`."""
    layers = [{**images.descriptor(data, PAYLOAD), "annotations": {SIGNATURE: mark}} for data, mark in payloads]
    return _stored(layers, [data for data, _ in payloads])


def statement(*digests: str, predicate: str = PREDICATE) -> bytes:
    subject = [{"digest": {"sha256": digest.removeprefix("sha256:")}} for digest in digests]
    return json.dumps(
        {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": predicate}
    ).encode()


def bundle(signer: Signer, signed: bytes, kind: str = STATEMENT, **fields: Any) -> bytes:
    """A bundle; `fields` change it."""
    message = b" ".join((b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(signed)).encode(), signed))
    envelope = {"payload": text(signed), "payloadType": kind, "signatures": [{"sig": text(signer.sign(message))}]}
    material = {"publicKey": {"hint": "whatever"}}
    document = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope, **fields}
    return json.dumps(document).encode()


def referring(*bundles: bytes, kind: str = BUNDLE) -> images.Image:
    """Index of bundles for the tag `sha256-HEX`, for a registry without lists of referrers."""
    stored = [
        _stored([images.descriptor(data, BUNDLE)], [data], artifactType=BUNDLE, annotations={"n": str(number)})
        for number, data in enumerate(bundles)
    ]
    listed = [{**images.descriptor(one.manifest, one.media_type), "artifactType": kind} for one in stored]
    media_type = f"{images.OCI}.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": listed}
    return images.Image(json.dumps(document).encode(), media_type, {}, tuple(stored))


def tag(digest: str) -> str:
    return digest.replace(":", "-")


def _stored(layers: Sequence[Any], blobs: Sequence[bytes], **fields: Any) -> images.Image:
    media_type = f"{images.OCI}.manifest.v1+json"
    config = images.descriptor(_NOTHING, f"{images.OCI}.config.v1+json")
    document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": list(layers), **fields}
    kept = {images.digest(data): data for data in (_NOTHING, *blobs)}
    return images.Image(json.dumps(document).encode(), media_type, kept)
