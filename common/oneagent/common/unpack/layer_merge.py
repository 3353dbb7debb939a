"""Merges several layers into one list of entries (OCI image specification, "layer.md").

A layer adds and replaces entries, and removes those below it by whiteouts: `.wh.name` for one name, `.wh..wh..opq`
for everything in a directory. Whiteouts affect the layers below only, wherever in their layer they are. Only entries
are merged here, before anything is on the disk. The content of a remaining one is identified by its position in its
layer. A hard link is another name of the same content, also when its first name is replaced.

Entries outside of the agent's directory are not used, so nothing about them refuses an image: it may be built upon a
distribution, by any tool, with devices, absolute links and odd names. Only what could reach the agent counts: a path
that leads through its directory or out of the image, and a whiteout without a name. Where an image has no such
directory, all of it is the agent.

An image may have more entries than an agent may, most of them a distribution's. Then it is read a second time, and
only entries in the agent's directory or above it are kept. Hard links to other files are refused in such an image.

Paths begin at the image's root, with a `/` in front or without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from oneagent.common import unpack
from oneagent.common.unpack import PackageTooLargeError, UnsafePackageError, agent_layout, entry_index, tar_reader
from oneagent.common.unpack.entry_index import EntryIndex

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_DEPTH_MAX: Final = 64
_AGENT: Final = agent_layout.NESTED.split("/")


class Content(msgspec.Struct, frozen=True):
    """A file's bytes, by layer and entry."""

    layer: int
    entry: int
    mode: int
    size: int


class _Link(msgspec.Struct, frozen=True):
    target: str


class _Unsupported(msgspec.Struct, frozen=True):
    """An entry of a kind that an agent may not have."""


_Directory = dict[str, "_Node"]
_Node = _Directory | Content | _Link | _Unsupported


@dataclass(frozen=True, slots=True)
class Plan:
    """The agent of an image: its entry index, and the paths of each content, a file's first."""

    index: EntryIndex
    files: dict[Content, list[str]] = field(default_factory=dict)


class LayerMerge:
    """Merges layers, which may be read in any order."""

    def __init__(self, limits: unpack.UnpackLimits, *, agent_only: bool = False) -> None:
        """`agent_only`: keep only entries in the agent's directory or above it."""
        self._limits, self._agent_only = limits, agent_only
        self.is_full = False
        """There were more entries than the limit; the rest was not read."""
        self._tree: _Directory = {}
        self._read: dict[int, list[tuple[list[str], int, tar_reader.Entry]]] = {}
        self._entries = 0
        self._problem: unpack.PackageError | None = None
        """The first one of an entry outside of the agent's directory."""

    def read_layer(self, layer: int, entries: Iterable[tar_reader.Entry]) -> None:
        """Read the entries of a layer; 0 is the lowest one."""
        kept = self._read[layer] = []
        for number, entry in enumerate(entries):
            if self._agent_only and not _leads_to_agent(entry.name):
                continue
            self._entries += 1
            if self._entries > self._limits.entries:
                self.is_full = True
                return
            with self._unless_outside(entry.name):
                if entry.problem:
                    error, text = entry.problem
                    raise error(text)
                kept.append((_split(entry.name), number, entry))

    def merge(self) -> None:
        """Merge the layers that have been read, lowest first."""
        for layer in sorted(self._read):
            entries = self._read.pop(layer)
            for parts, _, _ in entries:
                if parts and parts[-1].startswith(_WHITEOUT):
                    self._apply_whiteout(parts)
            placed: dict[str, bool] = {}
            for parts, number, entry in entries:
                if parts and not _has_whiteout(parts):
                    with self._unless_outside(entry.name):
                        self._add_entry(parts, entry, (layer, number), placed)

    def plan(self, archive_bytes: int) -> Plan:
        """Return the entries below the agent's directory, or all if there is none; refused if one is unsupported."""
        nested = self._find(_AGENT)
        root = nested if isinstance(nested, dict) else self._tree
        if self.is_full or (self._agent_only and root is self._tree):
            raise PackageTooLargeError(f"the package has more than {self._limits.entries:,} entries")
        if root is self._tree and self._problem:
            raise self._problem
        plan = Plan(EntryIndex(self._limits, archive_bytes))
        ahead: list[tuple[str, _Node]] = list(root.items())
        while ahead:
            name, node = ahead.pop()
            path = entry_index.clean_path(name)
            if isinstance(node, dict):
                plan.index.add_directory(path)
                ahead.extend((f"{name}/{inner}", below) for inner, below in node.items())
            elif isinstance(node, Content):
                names = plan.files.setdefault(node, [])
                # Another name of a file takes no space.
                plan.index.add_file(path, 0 if names else node.size)
                names.append(path)
            elif isinstance(node, _Link):
                plan.index.add_link(path, node.target)
            else:
                raise UnsafePackageError(f"{entry_index.quote_name(path)} is {tar_reader.Kind.OTHER.value}")
        return plan

    @contextlib.contextmanager
    def _unless_outside(self, name: str) -> Iterator[None]:
        """Leave out an entry that is refused, if it cannot reach the agent."""
        try:
            yield
        except unpack.PackageError as error:
            if _reaches_agent(name):
                raise
            # Without its traceback, which would keep all entries of the layer in memory.
            self._problem = self._problem or error.with_traceback(None)

    def _find(self, parts: Sequence[str]) -> _Node | None:
        node: _Node | None = self._tree
        for part in parts:
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def _apply_whiteout(self, parts: list[str]) -> None:
        hidden = parts[-1].removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            # Other programs would remove the directory, or the one above it.
            raise UnsafePackageError(f"{entry_index.quote_name('/'.join(parts))} is a whiteout without a name")
        directory = self._find(parts[:-1])
        if isinstance(directory, dict):
            if parts[-1] == _OPAQUE:
                directory.clear()
            else:
                directory.pop(hidden, None)

    def _add_entry(
        self, parts: list[str], entry: tar_reader.Entry, place: tuple[int, int], placed: dict[str, bool]
    ) -> None:
        """`place` are the numbers of its layer and entry; `placed` the layer's paths, each True for a directory."""
        directory = self._make_directories(parts[:-1], entry.name, placed)
        path, is_directory = "/".join(parts), entry.kind is tar_reader.Kind.DIRECTORY
        if path in placed and not (is_directory and placed[path]):
            directory[parts[-1]] = _Unsupported()
            raise UnsafePackageError(f"{entry_index.quote_name(path)} appears twice in one layer")
        placed[path] = is_directory
        before = directory.get(parts[-1])
        if is_directory:
            directory[parts[-1]] = before if isinstance(before, dict) else {}
        else:
            directory[parts[-1]] = self._make_node(entry, place)

    def _make_directories(self, parts: list[str], name: str, placed: dict[str, bool]) -> _Directory:
        node = self._tree
        for depth, part in enumerate(parts, 1):
            if part not in node:
                node[part] = {}
            below = node[part]
            if not isinstance(below, dict):
                above = "/".join(parts[:depth])
                raise UnsafePackageError(
                    f"{entry_index.quote_name(name)} lies below {entry_index.quote_name(above)}, which is no directory"
                )
            placed.setdefault("/".join(parts[:depth]), True)
            node = below
        return node

    def _make_node(self, entry: tar_reader.Entry, place: tuple[int, int]) -> _Node:
        if entry.kind is tar_reader.Kind.FILE:
            return Content(*place, entry.mode, entry.size)
        if entry.kind is tar_reader.Kind.LINK:
            return _Link(entry.target)
        if entry.kind is tar_reader.Kind.HARD_LINK:
            # A link to an unsupported entry is itself unsupported.
            node = self._find(_split(entry.target))
            if node is None or isinstance(node, dict):
                name, target = entry_index.quote_name(entry.name), entry_index.quote_name(entry.target)
                raise UnsafePackageError(f"{name} is a hard link to {target}, which is no file before it")
            return node
        return _Unsupported()


def is_whiteout(path: str) -> bool:
    """Return True for the path of a whiteout, and for one below it."""
    return _has_whiteout(path.split("/"))


def _has_whiteout(parts: list[str]) -> bool:
    return any(part.startswith(_WHITEOUT) for part in parts)


def _split(name: str) -> list[str]:
    """Split a path. Used paths are checked again by `entry_index.clean_path`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise UnsafePackageError(f"{name[:80]!r} leads out of the image")
    if len(parts) > _DEPTH_MAX:
        raise UnsafePackageError(f"{name[:80]!r} lies deeper than {_DEPTH_MAX} directories")
    return parts


def _leads_to_agent(name: str) -> bool:
    """Return True for a path in the agent's directory or above it, for a whiteout of such, and for one that is odd."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts and parts[-1].startswith(_WHITEOUT):
        hidden = parts.pop().removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            return True
        parts += [hidden] if hidden != _OPAQUE.removeprefix(_WHITEOUT) else []
    return ".." in parts or parts[: len(_AGENT)] == _AGENT[: len(parts)]


def _reaches_agent(name: str) -> bool:
    """Return True if a path leads into the agent's directory, or by `..` through it, near it or to the image's root."""
    here: list[str] = []
    parts = name.split("/")
    for part in parts:
        if part == "..":
            if len(here) <= 1:
                return True
            here.pop()
        elif part not in ("", "."):
            here.append(part)
        if here[: len(_AGENT)] == _AGENT:
            return True
    return ".." in parts and here[:1] == _AGENT[:1]
