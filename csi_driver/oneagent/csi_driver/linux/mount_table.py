"""The kernel's mount table, read by fields.

Lines of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)) have a variable middle part and octal escapes, and
overlay options escape `:` and `,` with a backslash once more. Splitting such options on `=` or matching
mount points by prefix is how agents in use come to be deleted, so this module is the only reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SELF: Final = Path("/proc/self/mountinfo")

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_BACKSLASHED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table. `root` is the part of the file system that is mounted here (bind mounts).

    `device` is `major:minor` of the file system, the same for all mounts of one.
    """

    mount_id: int
    root: str
    target: str
    fs_type: str
    read_only: bool
    super_options: tuple[str, ...]
    device: str = ""


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay mount with its layers, topmost lower first. `upper` is None for one without an upper layer."""

    mount: Mount
    lower: tuple[str, ...]
    upper: str | None


def _unescape(field: str) -> str:
    if "\\" not in field and field.isascii():
        return field
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field).encode("latin-1").decode(errors="surrogateescape")


def _split_unescaped(text: str, separator: str) -> Iterator[str]:
    part = ""
    escaped = False
    for char in text:
        if escaped or char == "\\":
            part += char
            escaped = not escaped and char == "\\"
        elif char == separator:
            yield part
            part = ""
        else:
            part += char
    yield part


def parse(lines: Iterable[str]) -> list[Mount]:
    """Parse the table in its order: of two mounts at one target the later one is on top.

    `ValueError` on a line that is none: callers that would delete must stop, not guess.
    """
    mounts = []
    for line in lines:
        before, separator, after = line.rstrip("\n").partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            raise ValueError(f"not a line of a mount table: {line!r}")
        super_options = tuple(_split_unescaped(_unescape(tail[2]), ","))
        mounts.append(
            Mount(
                mount_id=int(fields[0]),
                root=_unescape(fields[3]),
                target=_unescape(fields[4]),
                fs_type=tail[0],
                read_only="ro" in fields[5].split(",") or "ro" in super_options,
                super_options=super_options,
                device=fields[2],
            )
        )
    return mounts


def read(path: Path = SELF) -> list[Mount]:
    """Read the mount table of this process's mount namespace."""
    # The kernel escapes the line feed in a name, but not the carriage return, at which Python would end a line, too.
    with path.open(encoding="latin-1", newline="\n") as table:
        return parse(table)


def as_overlay(mount: Mount) -> Overlay | None:
    """Return the layers of an overlay mount; None for other mounts."""
    if mount.fs_type != "overlay":
        return None
    lower: tuple[str, ...] = ()
    upper = None
    for option in mount.super_options:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            lower += tuple(_BACKSLASHED.sub(r"\1", layer) for layer in _split_unescaped(value, ":") if layer)
        elif key == "lowerdir+":
            lower += (_BACKSLASHED.sub(r"\1", value),)
        elif key == "upperdir":
            upper = _BACKSLASHED.sub(r"\1", value)
    return Overlay(mount, lower, upper)


def overlays(mounts: Iterable[Mount]) -> list[Overlay]:
    """Return the overlays among the mounts."""
    return [overlay for mount in mounts if (overlay := as_overlay(mount)) is not None]


def top_at(mounts: Iterable[Mount], target: str) -> Mount | None:
    """Return the mount that is visible at exactly this path."""
    found = None
    for mount in mounts:
        if mount.target == target:
            found = mount
    return found


def mount_containing(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount that holds a path: the longest target above it, the topmost of equal ones."""
    found = None
    for mount in mounts:
        inside = path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
        if inside and (found is None or len(mount.target) >= len(found.target)):
            found = mount
    return found


def at_or_below(mounts: Iterable[Mount], directory: str) -> list[Mount]:
    """Return the mounts at a directory or below it."""
    inside = directory.rstrip("/") + "/"
    return [mount for mount in mounts if f"{mount.target}/".startswith(inside)]
