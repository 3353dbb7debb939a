"""References of images that lie in a folder of the node: `oci-layout:/path/to/folder[:name][@sha256:…]`.

    InvalidFolder   a text that is none; says what is wrong with it

The folder is an OCI image layout. The name is the one that its index has for the image, the annotation
`org.opencontainers.image.ref.name`: where several programs write `oci:folder:name`, here is the same text with the
whole path. Without a name the only image is meant. A digest says which bytes, and wins if both are given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from oneagent.common.oci import reference

PREFIX: Final = "oci-layout:"
_NAME: Final = re.compile(r"[A-Za-z0-9]+((--|[-._:/+])[A-Za-z0-9]+)*")
"""As in the image layout specification, without `@`, behind which a digest stands here."""


class InvalidLayoutError(ValueError):
    """Not an image in a folder; `why` is the reason alone."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{text[:200]!r} is no image in a folder, such as {PREFIX}/data/images/agent:1.2: {why}")
        self.why = why


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """An image in a folder, by its name there, by digest, or by being the only one."""

    path: Path
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.path}"

    def at(self, digest: str) -> ImageFolder:
        """The same image, by this digest."""
        return replace(self, digest=digest)


def parse(text: str) -> ImageFolder:
    """Read a reference."""
    if not text.startswith(PREFIX):
        raise InvalidLayoutError(text, f"it has to begin with {PREFIX}")
    rest, at, digest = text.removeprefix(PREFIX).partition("@")
    folder, colon, tag = rest.partition(":")
    path = PurePosixPath(folder)
    if not folder.startswith("/") or folder.startswith("//") or ".." in path.parts or not folder.isprintable():
        raise InvalidLayoutError(text, "the path has to be absolute, without '..', ':' and '@'")
    if colon and not _NAME.fullmatch(tag):
        raise InvalidLayoutError(
            text, "the image's name has to be of letters, digits, and single '-._:/+' between them"
        )
    if at and not reference.DIGEST.fullmatch(digest):
        raise InvalidLayoutError(text, "the digest has to be sha256: and 64 hex digits in small letters")
    if len(text) > 1024:
        raise InvalidLayoutError(text, "it is longer than 1024 characters")
    return ImageFolder(Path(path), tag, digest)
