"""References of images, as container runtimes take them: `registry.example.com:5000/agents/one:1.2@sha256:…`.

    InvalidReference    a text that is none; says what is wrong with it

The first part is a registry if it has a dot or a port, or is `localhost`. Otherwise Docker Hub is meant, where a
name without a folder lies in `library`. A tag says what is wanted today; a digest says which bytes, and wins if
both are given.
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
"""The only algorithm that is in use, and the one that a version is named by."""

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
"""As in the image layout specification, without `@`, behind which a digest stands here."""


class InvalidLayoutError(ValueError):
    """Not an image in a folder; `why` is the reason alone."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"{text[:200]!r} is no image in a directory, such as {LAYOUT_PREFIX}/data/images/agent:1.2: {why}"
        )
        self.why = why


class InvalidReferenceError(ValueError):
    """Not the name of an image; `why` is the reason alone."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{text[:200]!r} is no image such as registry.example.com/team/agent:1.2: {why}")
        self.why = why


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, by tag or by digest; one of the two is never empty."""

    registry: str
    """As it is written, in small letters: `docker.io`, or a host with its port if it has one."""
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and path, which pull secrets and allow-lists go by."""
        return f"{self.registry}/{self.path}"

    @property
    def host(self) -> str:
        """Where the registry answers."""
        return _HUB_HOST if self.registry == HUB else self.registry

    def at(self, digest: str) -> Reference:
        """The same image, by this digest."""
        return replace(self, digest=digest)


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An image in a directory, by its name there, by digest, or by being the only one."""

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
        """The same image, by this digest."""
        return replace(self, digest=digest)


ImageName = Reference | LayoutReference
"""The name of an image, in a registry or in a layout."""


def parse(text: str) -> Reference:
    """Read a reference; without tag and digest the tag is `latest`."""
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
            text, "the name has to be of small letters, digits, and single '.', '_', '-', '/' between them"
        )
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReferenceError(text, "the tag has to be of letters, digits, '_', '.', '-', at most 128")
    if at and not DIGEST.fullmatch(digest):
        raise InvalidReferenceError(text, "the digest has to be sha256: and 64 hex digits in small letters")
    if len(text) > 512:
        raise InvalidReferenceError(text, "it is longer than 512 characters")
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def parse_layout(text: str) -> LayoutReference:
    """Read a reference."""
    if not text.startswith(LAYOUT_PREFIX):
        raise InvalidLayoutError(text, f"it has to begin with {LAYOUT_PREFIX}")
    rest, at, digest = text.removeprefix(LAYOUT_PREFIX).partition("@")
    directory, colon, tag = rest.partition(":")
    path = PurePosixPath(directory)
    if not directory.startswith("/") or directory.startswith("//") or ".." in path.parts or not directory.isprintable():
        raise InvalidLayoutError(text, "the path has to be absolute, without '..', ':' and '@'")
    if colon and not _LAYOUT_NAME.fullmatch(tag):
        raise InvalidLayoutError(
            text, "the image's name has to be of letters, digits, and single '-._:/+' between them"
        )
    if at and not DIGEST.fullmatch(digest):
        raise InvalidLayoutError(text, "the digest has to be sha256: and 64 hex digits in small letters")
    if len(text) > 1024:
        raise InvalidLayoutError(text, "it is longer than 1024 characters")
    return LayoutReference(Path(path), tag, digest)


def normalize_registry(registry: str) -> str:
    """The name by which a registry is known here: Docker Hub has several."""
    return HUB if registry in _HUB_NAMES else registry


def _check_registry(text: str, registry: str) -> None:
    found = _REGISTRY.fullmatch(registry)
    if not found or (found["port"] and not 0 < int(found["port"]) < 65536):
        raise InvalidReferenceError(
            text, "the registry has to be a host name or an address, with :port where it has one"
        )
