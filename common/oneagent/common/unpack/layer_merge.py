"""What several layers, one over the other, come to (OCI image specification, "layer.md").

A layer adds and replaces, and takes away what is below it by whiteouts: `.wh.name` for one name, `.wh..wh..opq`
for all of a folder. Whiteouts mean the layers below only, wherever in their layer they stand. Nothing is taken
from the disk again, because nothing is on it yet: only entries are merged here, and the content of one that
survives is known by its place in its layer. A hard link is another name of the same content, and stays that
when its first name is replaced.

What lies outside of the agent's folder is not used, and not looked at beyond its name: an image may be built
upon a distribution, with devices and links to absolute paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from oneagent.common import unpack
from oneagent.common.unpack import PackageTooLargeError, UnsafePackageError, agent_layout, tar_reader

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_DEPTH_MAX: Final = 64


class Content(msgspec.Struct, frozen=True):
    """A file's bytes: which entry of which layer has them."""

    layer: int
    entry: int
    mode: int
    size: int


class _Link(msgspec.Struct, frozen=True):
    target: str


class _Odd(msgspec.Struct, frozen=True):
    """Something that an agent may not have."""


_Folder = dict[str, "_Node"]
_Node = _Folder | Content | _Link | _Odd


@dataclass(frozen=True, slots=True)
class Plan:
    """The agent of an image: its outline, and for each content the paths that have it, the first one a file's."""

    outline: unpack.EntryIndex
    files: dict[Content, list[str]] = field(default_factory=dict)


class Merged:
    """Layers as they are added, lowest first."""

    def __init__(self, limits: unpack.Limits) -> None:
        self._limits = limits
        self._tree: _Folder = {}
        self._layers = 0
        self._entries = 0

    def add(self, layer: Iterable[tar_reader.Entry]) -> None:
        entries: list[tuple[list[str], tar_reader.Entry]] = []
        for entry in layer:
            parts = _parts(entry.name)
            entries.append((parts, entry))
            # Folders that only a path names count too.
            self._entries += 1
            if self._entries > self._limits.entries:
                raise PackageTooLargeError(f"the package has more than {self._limits.entries:,} entries")
        for parts, _ in entries:
            if parts and parts[-1].startswith(_WHITEOUT):
                self._take_away(parts)
        placed: dict[str, bool] = {}
        for number, (parts, entry) in enumerate(entries):
            if parts and not any(part.startswith(_WHITEOUT) for part in parts):
                self._place(parts, entry, number, placed)
        self._layers += 1

    def plan(self, archive_bytes: int) -> Plan:
        """What there is below the agent's folder, or at all if there is none; refused if any of it is odd."""
        nested = self._at(agent_layout.NESTED.split("/"))
        root = nested if isinstance(nested, dict) else self._tree
        plan = Plan(unpack.EntryIndex(self._limits, archive_bytes))
        ahead: list[tuple[str, _Node]] = list(root.items())
        while ahead:
            name, node = ahead.pop()
            path = unpack.clean(name)
            if isinstance(node, dict):
                plan.outline.add_directory(path)
                ahead.extend((f"{name}/{inner}", below) for inner, below in node.items())
            elif isinstance(node, Content):
                names = plan.files.setdefault(node, [])
                # Another name of a file takes no room.
                plan.outline.add_file(path, 0 if names else node.size)
                names.append(path)
            elif isinstance(node, _Link):
                plan.outline.add_link(path, node.target)
            else:
                raise UnsafePackageError(f"{unpack.shown(path)} is {tar_reader.Kind.ODD.value}")
        return plan

    def _at(self, parts: Sequence[str]) -> _Node | None:
        node: _Node | None = self._tree
        for part in parts:
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def _take_away(self, parts: list[str]) -> None:
        hidden = parts[-1].removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            # Other programs would take away the folder, or the one above it.
            raise UnsafePackageError(f"{unpack.shown('/'.join(parts))} takes away what has no name")
        folder = self._at(parts[:-1])
        if isinstance(folder, dict):
            if parts[-1] == _OPAQUE:
                folder.clear()
            else:
                folder.pop(hidden, None)

    def _place(self, parts: list[str], entry: tar_reader.Entry, number: int, placed: dict[str, bool]) -> None:
        """`placed` are the paths of this layer, and whether they are folders."""
        folder = self._folder(parts[:-1], entry.name, placed)
        path, is_folder = "/".join(parts), entry.kind is tar_reader.Kind.FOLDER
        if path in placed and not (is_folder and placed[path]):
            raise UnsafePackageError(f"{unpack.shown(path)} comes twice in one layer")
        placed[path] = is_folder
        before = folder.get(parts[-1])
        if is_folder:
            folder[parts[-1]] = before if isinstance(before, dict) else {}
        else:
            folder[parts[-1]] = self._node(entry, number)

    def _folder(self, parts: list[str], name: str, placed: dict[str, bool]) -> _Folder:
        node = self._tree
        for depth, part in enumerate(parts, 1):
            if part not in node:
                node[part] = {}
                self._entries += 1
            below = node[part]
            if not isinstance(below, dict):
                above = "/".join(parts[:depth])
                raise UnsafePackageError(f"{unpack.shown(name)} lies below {unpack.shown(above)}, which is no folder")
            placed.setdefault("/".join(parts[:depth]), True)
            node = below
        return node

    def _node(self, entry: tar_reader.Entry, number: int) -> _Node:
        if entry.kind is tar_reader.Kind.FILE:
            return Content(self._layers, number, entry.mode, entry.size)
        if entry.kind is tar_reader.Kind.LINK:
            return _Link(entry.target)
        if entry.kind is tar_reader.Kind.HARD_LINK:
            # Of any kind of thing: a hard link to what is odd is as odd.
            found = self._at(_parts(entry.target))
            if found is None or isinstance(found, dict):
                name, target = unpack.shown(entry.name), unpack.shown(entry.target)
                raise UnsafePackageError(f"{name} is a hard link to {target}, which is no file before it")
            return found
        return _Odd()


def _parts(name: str) -> list[str]:
    """A path's names. What of it is used is looked at again, by `packages.clean`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafePackageError(f"{name[:80]!r} leads out of the image")
    if len(parts) > _DEPTH_MAX:
        raise UnsafePackageError(f"{name[:80]!r} lies deeper than {_DEPTH_MAX} folders")
    return parts
