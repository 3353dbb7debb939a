"""Public keys as people give them: one or more blocks of PEM text, read without any cryptography.

    NotPublicKeys   a text that has none, or something else as well; its message shows nothing of it

A key is known by its fingerprint. Whether it is of a kind that can be used is told where it is used: what reads
DynaKubes must not need a library of cryptography for it.
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
    """What is wrong, and what is needed in its place."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key, as the structure `SubjectPublicKeyInfo` of X.509."""

    der: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


def is_pem(text: str) -> bool:
    """Whether a text is meant to be PEM, be it right or not."""
    return "-----" in text


def from_setting(value: str, secret: Mapping[str, str] | None, entry: str) -> tuple[PublicKey, ...]:
    """The keys of a setting that is PEM, or the name of a Secret with this content and the keys in an entry of it."""
    if not value or is_pem(value):
        return parse(value) if value else ()
    where = f"the secret {value}"
    if secret is None:
        raise InvalidPublicKeysError(f"{where}: is not there: it has to have the public keys of images as {entry}")
    if not secret.get(entry):
        raise InvalidPublicKeysError(f"{where}: has no key {entry}: put the public keys of images there")
    try:
        return parse(secret[entry])
    except InvalidPublicKeysError as error:
        raise InvalidPublicKeysError(f"{where}: {entry} {error}") from error


def parse(text: str) -> tuple[PublicKey, ...]:
    """The keys of a text that has nothing else; white space does not matter."""
    if len(text) > _MAX_BYTES:
        raise InvalidPublicKeysError(f"has more than {_MAX_BYTES >> 10} KiB: only public keys belong there")
    for label in _LABEL.findall(text):
        if "PRIVATE" in label:
            raise InvalidPublicKeysError(
                "has a private key in it, which is to be replaced now that it was shown: only public keys belong there"
            )
        if label != "PUBLIC KEY":
            raise InvalidPublicKeysError(f"has a block {label}: only blocks PUBLIC KEY are read")
    blocks = _BLOCK.findall(text)
    if not blocks or _BLOCK.sub("", text).strip():
        raise InvalidPublicKeysError("is not a list of public keys in PEM form (-----BEGIN PUBLIC KEY-----)")
    if len(blocks) > MAX_KEYS:
        raise InvalidPublicKeysError(f"has {len(blocks)} public keys: {MAX_KEYS} at most are read")
    try:
        found = [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
    except binascii.Error:
        raise InvalidPublicKeysError("has a public key that is not in base64") from None
    return tuple(map(PublicKey, dict.fromkeys(found)))
