"""Verification of signatures with the keys that images are signed with.

ECDSA on P-256 and P-384, RSA from 2,048 bits (PKCS #1 v1.5), and Ed25519. A signature does not name its hash:
it is SHA-256, but newer versions of cosign use SHA-384 for P-384. Ed25519ph, which some of them use for
Ed25519 keys, is another scheme and is not verified.

This needs the library `cryptography`, some 8 MiB of memory, so it is imported only to verify a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from oneagent.common.http import client as http_client
from oneagent.common.oci.public_keys import PublicKey

_MIN_RSA_BITS: Final = 2048
# By the names of SEC 2, which the library has for P-256 and P-384.
_CURVES: Final[dict[str, tuple[hashes.HashAlgorithm, ...]]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA256(), hashes.SHA384()),
}
_UsableKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def check_usable(keys: Sequence[PublicKey]) -> None:
    """Raise `InvalidSettingsError` if a key cannot be used."""
    for number, key in enumerate(keys, 1):
        _load(key, f"public key {number} of {len(keys)}")


def find_signer(keys: Sequence[PublicKey], message: bytes, signature: bytes) -> PublicKey | None:
    """Return the key that signed a message, if it is one of them."""
    for key in keys:
        if _has_signed(_load(key, "a public key"), message, signature):
            return key
    return None


def _load(key: PublicKey, what: str) -> _UsableKey:
    try:
        loaded = serialization.load_der_public_key(key.der)
    except (ValueError, UnsupportedAlgorithm):
        raise http_client.InvalidSettingsError(
            f"{what} cannot be read: export it again with cosign public-key"
        ) from None
    match loaded:
        case ec.EllipticCurvePublicKey() if loaded.curve.name in _CURVES:
            return loaded
        case ed25519.Ed25519PublicKey():
            return loaded
        case rsa.RSAPublicKey() if loaded.key_size >= _MIN_RSA_BITS:
            return loaded
        case _:
            raise http_client.InvalidSettingsError(
                f"{what} is of an unsupported kind: ECDSA on P-256 or P-384, Ed25519, or RSA from "
                f"{_MIN_RSA_BITS:,} bits is needed"
            )


def _has_signed(key: _UsableKey, message: bytes, signature: bytes) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return any(_verifies(key, message, signature, algorithm) for algorithm in _CURVES[key.curve.name])
    return _verifies(key, message, signature, hashes.SHA256())


def _verifies(key: _UsableKey, message: bytes, signature: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey():
                key.verify(signature, message, padding.PKCS1v15(), algorithm)
            case _:
                key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
