"""Public keys as users supply them: one or more PEM blocks, parsed without cryptography.

    InvalidPublicKeysError      no public key, or something besides them; its message shows nothing of the text

A key's identity is its fingerprint. Its kind is checked where it is used: reading a DynaKube must not need a
library of cryptography.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_KEYS: Final = 16
"""Keys in one text: enough for any rotation."""

_MAX_BYTES: Final = 64 << 10
_LABEL: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,60})-----")
_BLOCK: Final = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")


class InvalidPublicKeysError(ValueError):
    """The fault and its remedy."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key, as X.509's `SubjectPublicKeyInfo`."""

    der: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


def is_pem(text: str) -> bool:
    """Return True if a text is meant to be PEM, valid or not."""
    return "-----" in text


def from_setting(value: str, secret: Mapping[str, str] | None, entry: str) -> tuple[PublicKey, ...]:
    """Return the keys of a setting: PEM text, or the name of a Secret with this content and the keys in `entry`."""
    if not value or is_pem(value):
        return parse(value) if value else ()
    where = f"the secret {value}"
    if secret is None:
        raise InvalidPublicKeysError(f"{where}: does not exist: create it with the public keys of images as {entry}")
    if not secret.get(entry):
        raise InvalidPublicKeysError(f"{where}: has no key {entry}: put the public keys of images there")
    try:
        return parse(secret[entry])
    except InvalidPublicKeysError as error:
        raise InvalidPublicKeysError(f"{where}: {entry} {error}") from error


def parse(text: str) -> tuple[PublicKey, ...]:
    """Parse a text of public keys and white space."""
    if len(text) > _MAX_BYTES:
        raise InvalidPublicKeysError(f"has more than {_MAX_BYTES >> 10} KiB: put only public keys there")
    for label in _LABEL.findall(text):
        if "PRIVATE" in label:
            raise InvalidPublicKeysError(
                "has a private key in it: put only public keys there, and replace the key pair, since it was exposed"
            )
        if label != "PUBLIC KEY":
            raise InvalidPublicKeysError(f"has a block {label}: only blocks PUBLIC KEY are read")
    blocks = _BLOCK.findall(text)
    if not blocks or _BLOCK.sub("", text).strip():
        raise InvalidPublicKeysError("is not a list of public keys in PEM form (-----BEGIN PUBLIC KEY-----)")
    if len(blocks) > MAX_KEYS:
        raise InvalidPublicKeysError(f"has {len(blocks)} public keys: {MAX_KEYS} at most are read")
    try:
        encoded = [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
    except binascii.Error:
        raise InvalidPublicKeysError("has a public key that is not in base64") from None
    return tuple(map(PublicKey, dict.fromkeys(encoded)))
