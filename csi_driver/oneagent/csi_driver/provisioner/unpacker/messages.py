"""The dialogue with the process that unpacks a package: lines of JSON, and two files.

    parent → child    Request
    child → parent    Size          the package was read and is an agent
    parent → child    an empty line: there is room for it
    child → parent    Unpacked      the tree is complete and durable, but for its hard links
    child → parent    Failure       instead of Size or Unpacked

The parent gives the child open files for the package, the file manifest and the list of hard links, and kills it to
cancel. It trusts nothing that comes from the child.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from oneagent.common import typed_json

PackageKind = Literal["zip", "image"]

_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]

MAX_OUTPUT_BYTES: Final = 64 << 10
"""Bytes of all lines of a child."""


class PackageContent(NamedTuple):
    """The files of a package: a zip, or the layers of an image, lowest first. A file may appear twice."""

    kind: PackageKind
    files: tuple[Path, ...]


class Existing(msgspec.Struct, frozen=True):
    """A stored version whose files may be shared: the paths of its tree and its file manifest."""

    tree: str
    manifest: str


class Request(msgspec.Struct, frozen=True):
    """`package`, `manifest` and `links` are open descriptors."""

    parent: int
    """Process id."""
    kind: PackageKind
    package: tuple[int, ...]
    tree: str
    """Empty directory for the tree."""
    manifest: int
    links: int
    threads: int | None
    free_bytes: int
    """Bytes that may be written before `Size` is answered."""
    existing: tuple[Existing, ...]


class Size(msgspec.Struct, frozen=True, tag=True):
    """Bytes that the tree will take on the disk, in addition to those that are written already."""

    unpacked_size: _Bytes


class Unpacked(msgspec.Struct, frozen=True, tag=True):
    """`root` is the agent's directory within the tree, "" for the tree itself."""

    root: str
    unpacked_bytes: _Bytes


class Failure(msgspec.Struct, frozen=True, tag=True):
    """`error` is the name of a class in `unpack`, "" for an unexpected error."""

    error: str
    message: str
    errno: int | None = None


Answer = Size | Unpacked | Failure


class Link(msgspec.Struct, frozen=True, array_like=True):
    """A line of the list of hard links: `path` in the tree becomes a name of `source` in another one.

    `tree` is that of an `Existing`, or "" for the new tree itself.
    """

    path: str
    tree: str
    source: str


typed_json.prepare(Request, Answer, Link)
