"""What an agent package may hold, whatever its format: decided before anything of it is written.

A package comes from the network and is unpacked by root, so it is refused as a whole if any entry is odd.
`EntryIndex` collects entries one by one, so that a zip's directory and a tar's stream feed it alike:

- paths are relative, without `..`, backslashes, drive letters and control characters, and fit the kernel;
- no name comes twice, and nothing lies below a file or a link, so no entry is written through a link;
- a link leads, by every other link on its way, to an entry of the same tree.

    PackageError                    one line for the log; nothing of the package stays on the disk
    ├── CorruptPackageError         cut short, altered, or not a package at all: fetch it again
    ├── UnsafePackageError          an entry that could write or point outside of the tree, or is no file
    ├── PackageTooLargeError        more entries or bytes than the limits allow
    ├── UnsupportedPackageError     encrypted, or compressed in a way that is not read here
    ├── NotAnAgentError             a sound package without an agent in it
    ├── UnsignedImageError          an image without the signature that is asked for
    ├── UnpackFailedError           the disk or the archive's file system refused; `errno` says why
    └── UnpackCancelledError        the caller asked to stop
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

_NAME_MAX: Final = 255
_PATH_MAX: Final = 4095
_DEPTH_MAX: Final = 64
"""Folders are opened one below the other; no agent is deeper than about ten."""
_LINKS_MAX: Final = 40
"""As many links as the kernel follows in one path (path_resolution(7))."""
_BLOCK: Final = 4096
_RATIO_FREE: Final = 16 << 20
"""Bytes that any archive may unpack to: nobody is harmed by a small package of zeros."""

_ABSOLUTE: Final = re.compile(r"/|[A-Za-z]:")
_ODD: Final = re.compile(r"[\\\x00-\x1f\x7f]")


class PackageError(Exception):
    """A package that is not unpacked."""


class CorruptPackageError(PackageError):
    """The archive contradicts itself, its checksums, or its format."""


class UnsafePackageError(PackageError):
    """An entry that has no place in an agent."""


class PackageTooLargeError(PackageError):
    """The package is over a limit."""


class UnsupportedPackageError(PackageError):
    """The archive uses a feature that is not read here."""


class NotAnAgentError(PackageError):
    """The preload library, or another thing that makes an agent, is missing."""


class UnsignedImageError(PackageError):
    """The image has to be signed and is not, or not with a key that is asked for."""


class UnpackFailedError(PackageError):
    """The operating system refused; `errno` as in `OSError` (`ENOSPC`: the disk is full)."""

    def __init__(self, what: str, error: OSError) -> None:
        name = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        super().__init__(f"{what}: {error.strerror or error}{name}")
        self.errno = error.errno


class UnpackCancelledError(PackageError):
    """The caller's `cancelled()` was true."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a package may cost; an agent of today has 0.6 to 1.2 GB in some thousand files."""

    unpacked_bytes: int = 4 << 30
    ratio: int = 50
    """Unpacked bytes for each byte of the archive; an agent has about 3, a zip bomb 1,000 and more."""
    entries: int = 50_000


def clean(name: str) -> str:
    """The path in the tree that an entry's name stands for; "" is the tree itself.

    `.` and empty components are dropped, as every unpacker does; whatever could lead elsewhere is refused.
    """
    if _ABSOLUTE.match(name):
        raise UnsafePackageError(f"{shown(name)} is an absolute path")
    if _ODD.search(name):
        raise UnsafePackageError(f"{shown(name)} has a backslash or a control character in its name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnsafePackageError(f"{shown(name)} leads out of the tree")
    if not parts and not name:
        raise CorruptPackageError("an entry has no name")
    path = "/".join(parts)
    if len(parts) > _DEPTH_MAX or (len(path) > _PATH_MAX // 4 and len(os.fsencode(path)) > _PATH_MAX):
        raise UnsafePackageError(f"{shown(name)} is longer than a path can be")
    if len(path) > _NAME_MAX // 4 and any(len(os.fsencode(part)) > _NAME_MAX for part in parts):
        raise UnsafePackageError(f"{shown(name)} has a name of more than {_NAME_MAX} bytes")
    return path


def shown(name: str) -> str:
    """A name as a message has it."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def parent(path: str) -> str:
    """The folder of an entry; "" is the tree itself."""
    return path.rpartition("/")[0]


def most_bytes(limits: Limits, archive_bytes: int) -> int:
    """What a package of this size may unpack to."""
    return min(limits.unpacked_bytes, max(limits.ratio * archive_bytes, _RATIO_FREE))


class EntryIndex:
    """The entries of a package: `files` with sizes, `links` with targets, and every folder above one."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self.files: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.directories: set[str] = {""}
        self.unpacked_bytes = 0
        self._named: set[str] = set()
        self._limits = limits
        self._most = most_bytes(limits, archive_bytes)

    @property
    def disk_bytes(self) -> int:
        """What the tree will take on a disk with blocks of 4 KiB."""
        entries = len(self.directories) + len(self.links)
        return sum(-size // _BLOCK * -_BLOCK for size in self.files.values()) + entries * _BLOCK

    def add_file(self, path: str, size: int) -> None:
        self._add(path)
        self.files[path] = size
        self.unpacked_bytes += size
        if self.unpacked_bytes > self._most:
            raise PackageTooLargeError(
                f"the package unpacks to more than {self._most:,} bytes, which its size and the limits of "
                f"{self._limits.unpacked_bytes:,} bytes and {self._limits.ratio} to 1 allow"
            )

    def add_link(self, path: str, target: str) -> None:
        self._add(path)
        if target.startswith("/") or not target or "\0" in target or len(os.fsencode(target)) > _PATH_MAX:
            raise UnsafePackageError(f"{shown(path)} links to {shown(target)}, which is not a relative path")
        self.links[path] = target

    def add_directory(self, path: str) -> None:
        if path:
            self._add(path)
            self._add_folder(path)

    def _add(self, path: str) -> None:
        if not path:
            raise UnsafePackageError("an entry would replace the tree itself")
        # The number of folders counts too: 50,000 files could name a million of them.
        if max(len(self._named), len(self.directories)) >= self._limits.entries:
            raise PackageTooLargeError(f"the package has more than {self._limits.entries:,} entries")
        if path in self._named:
            raise UnsafePackageError(f"{shown(path)} comes twice")
        self._named.add(path)
        self._add_folder(parent(path))

    def _add_folder(self, path: str) -> None:
        while path not in self.directories:
            self.directories.add(path)
            path = parent(path)

    def check(self, root: str = "") -> None:
        """What only the whole shows: nothing below a file, and no link that leaves `root` or the tree."""
        for path in (*self.files, *self.links):
            if path in self.directories:
                raise UnsafePackageError(f"{shown(path)} is a file or a link, and a folder as well")
        for path in self.links:
            self.resolve(path, root if path.startswith(f"{root}/") else "")

    def resolve(self, link: str, boundary: str = "") -> str:
        """The file or folder that a link leads to; refused if the way leaves `boundary` or ends nowhere."""
        floor = len(_parts(boundary))
        here = _parts(parent(link))
        ahead = [link.rpartition("/")[2]]
        followed = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(here) <= floor:
                    raise UnsafePackageError(f"{shown(link)} links out of the tree")
                here.pop()
                continue
            path = "/".join((*here, part))
            if path in self.links and followed < _LINKS_MAX:
                followed += 1
                ahead.extend(reversed(self.links[path].split("/")))
            elif path in self.directories:
                here.append(part)
            elif path in self.files and not ahead:
                return path
            else:
                raise UnsafePackageError(f"{shown(link)} links to {shown(self.links[link])}, which leads nowhere")
        return "/".join(here)


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []
