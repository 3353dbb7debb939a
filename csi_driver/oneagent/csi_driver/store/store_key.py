"""Names of agent trees in the store: the digest of the content, or the version together with its source.

    image-sha256-HEX        an image, by the digest of its manifest
    zip-sha256-HEX          a zip on the node, by its own digest
    VERSION_SOURCE          a version that a source names: SOURCE is a digest of everything that decides what it serves

Tenants and packages name versions as they like. So a version alone is never a key: two tenants with the same version
have two trees, and a version that looks like a digest names no content. Equal files of two trees are hard links.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

from oneagent.common import identifiers
from oneagent.common.identifiers import StoreKey, Version

_IMAGE: Final = "image-sha256-"
_ZIP: Final = "zip-sha256-"
_DIGEST: Final = re.compile(r"(image|zip)-sha256-([0-9a-f]{64})")
_VERSION_KEY: Final = re.compile(r"(.+)_[0-9a-f]{24}")


def of_image(digest: str) -> StoreKey:
    """Return the key of an image by its digest, `sha256:HEX`."""
    return StoreKey(Version(_IMAGE + digest.removeprefix("sha256:")))


def image_digest(key: Version) -> str:
    """Return the digest of the image that a key names; empty if it names none."""
    match = _DIGEST.fullmatch(key)
    return f"sha256:{match[2]}" if match and match[1] == "image" else ""


def of_zip(sha256: str) -> StoreKey:
    """Return the key of a zip by its SHA-256 as hexadecimal digits."""
    return StoreKey(Version(_ZIP + sha256))


def zip_digest(key: Version) -> str:
    """Return the SHA-256 of the zip that a key names; empty if it names none."""
    match = _DIGEST.fullmatch(key)
    return match[2] if match and match[1] == "zip" else ""


def of_version(version: Version, *source: object) -> StoreKey:
    """Return the key of a version; `source` is everything that decides what is served under that version."""
    identity = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:24]
    return StoreKey(Version(f"{version}_{identity}"))


def is_key(name: str) -> bool:
    """Return True for a name that this module makes. Trees with other names are not known by their content."""
    match = _VERSION_KEY.fullmatch(name)
    return identifiers.is_version(match[1]) if match else _DIGEST.fullmatch(name) is not None


def split(key: Version) -> tuple[Version, str]:
    """Return the version and the source's part of a key; the latter is empty if the content decides."""
    version = identifiers.agent_version(key)
    return version, key.removeprefix(version).removeprefix("_")
