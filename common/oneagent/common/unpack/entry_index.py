"""Checks of a package's entries, whatever its format, before any of it is written.

A package comes from the network and is unpacked by root, so one unacceptable entry refuses the whole package.
`EntryIndex` collects entries one by one, so that a zip's directory and a tar's stream feed it alike:

- paths are relative, without `..`, backslashes, drive letters and control characters, and fit the kernel;
- no name appears twice, and nothing is below a file or a link, so no entry is written through a link;
- a link leads, by every other link on its way, to an entry of the same tree.
"""

from __future__ import annotations

import os
import re
from typing import Final

from oneagent.common.unpack import CorruptPackageError, PackageTooLargeError, UnpackLimits, UnsafePackageError

_NAME_MAX: Final = 255
_PATH_MAX: Final = 4095
_DEPTH_MAX: Final = 64
"""Directories are opened one below the other; no agent is deeper than about ten."""
_LINKS_MAX: Final = 40
"""Links that the kernel follows in one path (path_resolution(7))."""
_BLOCK: Final = 4096

_ABSOLUTE: Final = re.compile(r"/|[A-Za-z]:")
_ODD: Final = re.compile(r"[\\\x00-\x1f\x7f]")


def clean_path(name: str) -> str:
    """Return the path in the tree for an entry's name; "" is the tree itself.

    `.` and empty components are dropped, as every unpacker does. A path that could lead elsewhere is refused.
    """
    if _ABSOLUTE.match(name):
        raise UnsafePackageError(f"{quote_name(name)} is an absolute path")
    if _ODD.search(name):
        raise UnsafePackageError(f"{quote_name(name)} has a backslash or a control character in its name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnsafePackageError(f"{quote_name(name)} leads out of the tree")
    if not parts and not name:
        raise CorruptPackageError("an entry has no name")
    path = "/".join(parts)
    if len(parts) > _DEPTH_MAX or (len(path) > _PATH_MAX // 4 and len(os.fsencode(path)) > _PATH_MAX):
        raise UnsafePackageError(f"{quote_name(name)} is longer than a path can be")
    if len(path) > _NAME_MAX // 4 and any(len(os.fsencode(part)) > _NAME_MAX for part in parts):
        raise UnsafePackageError(f"{quote_name(name)} has a name of more than {_NAME_MAX} bytes")
    return path


def quote_name(name: str) -> str:
    """Return a name for messages."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def parent_path(path: str) -> str:
    """Return the directory of an entry; "" is the tree itself."""
    return path.rpartition("/")[0]


def disk_bytes(size: int) -> int:
    """Return the bytes that a file takes on a disk with blocks of 4 KiB."""
    return -size // _BLOCK * -_BLOCK


class EntryIndex:
    """The entries of a package: `files` with sizes, `links` with targets, and every directory above one."""

    def __init__(self, limits: UnpackLimits, archive_bytes: int) -> None:
        self.files: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.directories: set[str] = {""}
        self.unpacked_bytes = 0
        self._names: set[str] = set()
        self._limits = limits
        self._max_bytes = limits.max_unpacked_bytes(archive_bytes)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the tree takes on a disk with blocks of 4 KiB."""
        entries = len(self.directories) + len(self.links)
        return sum(map(disk_bytes, self.files.values())) + entries * _BLOCK

    def add_file(self, path: str, size: int) -> None:
        self._add(path)
        self.files[path] = size
        self.unpacked_bytes += size
        if self.unpacked_bytes > self._max_bytes:
            raise PackageTooLargeError(
                f"the package unpacks to more than {self._max_bytes:,} bytes, which its size and the limits of "
                f"{self._limits.unpacked_bytes:,} bytes and {self._limits.ratio} to 1 allow"
            )

    def add_link(self, path: str, target: str) -> None:
        self._add(path)
        if target.startswith("/") or not target or "\0" in target or len(os.fsencode(target)) > _PATH_MAX:
            raise UnsafePackageError(f"{quote_name(path)} links to {quote_name(target)}, which is not a relative path")
        self.links[path] = target

    def add_directory(self, path: str) -> None:
        if path:
            self._add(path)
            self._add_directories(path)

    def _add(self, path: str) -> None:
        if not path:
            raise UnsafePackageError("an entry names the tree itself")
        # The number of directories counts too: 50,000 files could name a million of them.
        if max(len(self._names), len(self.directories)) >= self._limits.entries:
            raise PackageTooLargeError(f"the package has more than {self._limits.entries:,} entries")
        if path in self._names:
            raise UnsafePackageError(f"{quote_name(path)} appears twice")
        self._names.add(path)
        self._add_directories(parent_path(path))

    def _add_directories(self, path: str) -> None:
        while path not in self.directories:
            self.directories.add(path)
            path = parent_path(path)

    def check(self, root: str = "") -> None:
        """Check the complete index: nothing below a file, and no link that leaves `root` or the tree."""
        for path in (*self.files, *self.links):
            if path in self.directories:
                raise UnsafePackageError(f"{quote_name(path)} is a file or a link, and a directory as well")
        for path in self.links:
            self.resolve(path, root if path.startswith(f"{root}/") else "")

    def resolve(self, link: str, boundary: str = "") -> str:
        """Return the file or directory that a link leads to; refused if the way leaves `boundary` or is broken."""
        floor = len(_split(boundary))
        here = _split(parent_path(link))
        ahead = [link.rpartition("/")[2]]
        followed = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(here) <= floor:
                    raise UnsafePackageError(f"{quote_name(link)} links out of the tree")
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
                raise UnsafePackageError(
                    f"{quote_name(link)} links to {quote_name(self.links[link])}, which leads to no entry"
                )
        return "/".join(here)


def _split(path: str) -> list[str]:
    return path.split("/") if path else []
