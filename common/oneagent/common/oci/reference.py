"""Names of images, in registries and in layouts.

    InvalidReferenceError   not a name such as `registry.example.com:5000/agents/one:1.2@sha256:…`
    InvalidLayoutError      not a name such as `oci-layout:/path/to/directory[:name][@sha256:…]`

In a registry, as container runtimes read it: the first part is a registry if it has a dot or a port, or is
`localhost`. Otherwise Docker Hub is meant, where a name without a slash is in `library`. A tag moves; a digest names
the bytes, and wins if both are given.

In a layout the name is the annotation `org.opencontainers.image.ref.name` of its index. Several programs write
`oci:directory:name`; here it is the same text with the absolute path. Without a name the only image is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

_SEGMENT: Final = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"

IMAGE: Final = re.compile(
    r"(?=.{1,512}$)"
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?/)?"  # registry
    rf"{_SEGMENT}(/{_SEGMENT})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?"
)
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
"""The only algorithm in use, and the one that versions are named by."""

HUB: Final = "docker.io"
_HUB_NAMES: Final = (HUB, "index.docker.io", "registry-1.docker.io")
_HUB_HOST: Final = "registry-1.docker.io"
_PATH: Final = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REGISTRY: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(:(?P<port>[0-9]{1,5}))?", re.ASCII
)

LAYOUT_PREFIX: Final = "oci-layout:"
_LAYOUT_NAME: Final = re.compile(r"[A-Za-z0-9]+((--|[-._:/+])[A-Za-z0-9]+)*")
"""As in the image layout specification, without `@`, which begins a digest here."""


class InvalidLayoutError(ValueError):
    """Not the name of an image in a layout; `why` is the reason alone."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"{text[:200]!r} is not an image in a directory, such as {LAYOUT_PREFIX}/data/images/agent:1.2: {why}"
        )
        self.why = why


class InvalidReferenceError(ValueError):
    """Not the name of an image; `why` is the reason alone."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{text[:200]!r} is not an image such as registry.example.com/team/agent:1.2: {why}")
        self.why = why


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, by tag or by digest; one of the two is never empty."""

    registry: str
    """As written, in lower case: `docker.io`, or a host with its port if it has one."""
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and path, which pull secrets and allow-lists match."""
        return f"{self.registry}/{self.path}"

    @property
    def host(self) -> str:
        """Host of the registry's API."""
        return _HUB_HOST if self.registry == HUB else self.registry

    def at(self, digest: str) -> Reference:
        """Return the same image, by this digest."""
        return replace(self, digest=digest)


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An image in a layout, by its name there, by digest, or by being the only one."""

    path: Path
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        return f"{LAYOUT_PREFIX}{self.path}"

    def at(self, digest: str) -> LayoutReference:
        """Return the same image, by this digest."""
        return replace(self, digest=digest)


ImageName = Reference | LayoutReference
"""The name of an image, in a registry or in a layout."""


def parse(text: str) -> Reference:
    """Parse a registry's image name; without tag and digest the tag is `latest`."""
    rest, at, digest = text.partition("@")
    first, slash, below = rest.partition("/")
    if slash and ("." in first or ":" in first or first.lower() == "localhost"):
        registry, rest = first.lower(), below
    else:
        registry = HUB
    path, colon, tag = rest.partition(":")
    registry = normalize_registry(registry)
    if registry == HUB:
        path = path if "/" in path else f"library/{path}"
    _check_registry(text, registry)
    if not _PATH.fullmatch(path):
        raise InvalidReferenceError(
            text, "the name must consist of lower-case letters, digits, and single '.', '_', '-', '/' between them"
        )
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReferenceError(text, "the tag must consist of letters, digits, '_', '.', '-', at most 128")
    if at and not DIGEST.fullmatch(digest):
        raise InvalidReferenceError(text, "the digest must be sha256: and 64 lower-case hex digits")
    if len(text) > 512:
        raise InvalidReferenceError(text, "it is longer than 512 characters")
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def parse_layout(text: str) -> LayoutReference:
    """Parse a layout's image name."""
    if not text.startswith(LAYOUT_PREFIX):
        raise InvalidLayoutError(text, f"it must begin with {LAYOUT_PREFIX}")
    rest, at, digest = text.removeprefix(LAYOUT_PREFIX).partition("@")
    directory, colon, tag = rest.partition(":")
    path = PurePosixPath(directory)
    if not directory.startswith("/") or directory.startswith("//") or ".." in path.parts or not directory.isprintable():
        raise InvalidLayoutError(text, "the path must be absolute, without '..', ':' and '@'")
    if colon and not _LAYOUT_NAME.fullmatch(tag):
        raise InvalidLayoutError(
            text, "the image's name must consist of letters, digits, and single '-._:/+' between them"
        )
    if at and not DIGEST.fullmatch(digest):
        raise InvalidLayoutError(text, "the digest must be sha256: and 64 lower-case hex digits")
    if len(text) > 1024:
        raise InvalidLayoutError(text, "it is longer than 1024 characters")
    return LayoutReference(Path(path), tag, digest)


def normalize_registry(registry: str) -> str:
    """Return the one name of a registry: Docker Hub has several."""
    return HUB if registry in _HUB_NAMES else registry


def _check_registry(text: str, registry: str) -> None:
    match = _REGISTRY.fullmatch(registry)
    if not match or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise InvalidReferenceError(text, "the registry must be a host name or an address, with :port if needed")
