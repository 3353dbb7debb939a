"""`ruxitagentproc.conf`, the agent's own configuration: package file, tenant settings and cluster settings, merged.

The format is `[section]` lines, `key value` lines split at the first space, `#` comments and blank lines.
`merge` is a pure function of its inputs: the same inputs give the same bytes, so that a file is only
rewritten when something changed. It keeps the package's comments and order, replaces lines in place
and adds new ones, sorted, at the end of their section or of the file. The cluster's settings win over the tenant's,
the tenant's over the package's.

A value from the network must not set more than its own key: with a line break it would open a section, below which
it can set anything. So control characters and line separators are removed from every name and value, and a property
whose section or key could still be read as something else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final, NamedTuple

GENERAL: Final = "general"

# C0, DEL and C1 (among them CR, LF, NUL, TAB, NEL), the two Unicode line separators, the byte order mark, and
# lone surrogates, which no UTF-8 file can hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_UNSAFE_KEY: Final = re.compile(r"^[\[#]|\s|^$")
_UNSAFE_SECTION: Final = re.compile(r"[\[\]]|^$")


@dataclass(frozen=True, slots=True)
class Property:
    """One setting. `value` may have spaces; an empty value is a key alone on its line."""

    section: str
    key: str
    value: str


class Merged(NamedTuple):
    """The file's text, and `[section] key` of each property that was refused because of its form."""

    text: str
    refused: tuple[str, ...]


def clean(text: str) -> str:
    """The text on one line: without control characters, line separators and outer white space."""
    return _UNPRINTABLE.sub("", text).strip()


def neutral(prop: Property) -> Property | None:
    """The property in a form that can be nothing but this one line; `None` if there is no such form."""
    # A key is not stripped: one with outer white space is as strange as one with inner, and refused alike.
    section, key = clean(prop.section), _UNPRINTABLE.sub("", prop.key)
    if _UNSAFE_SECTION.search(section) or _UNSAFE_KEY.search(key):
        return None
    return Property(section, key, clean(prop.value))


def general(
    *,
    host_group: str | None = None,
    tenant: str | None = None,
    tenant_token: str | None = None,
    endpoints: Sequence[str] | None = None,
    proxy: str | None = None,
) -> list[Property]:
    """Our own settings for `merge`: `None` says nothing about a key, an empty value takes it out."""
    address = None if endpoints is None else f"{{{';'.join(endpoints)}}}" if endpoints else ""
    wanted = {
        "hostGroup": host_group,
        "tenant": tenant,
        "tenantToken": tenant_token,
        "serverAddress": address,
        "proxy": proxy,
    }
    return [Property(GENERAL, key, value) for key, value in wanted.items() if value is not None]


def parse(text: str) -> list[Property]:
    """Return every setting in the order of the file; lines before the first section have the section `""`."""
    return [prop for _, prop in _read(text) if prop is not None and prop.key]


def merge(
    package: str,
    tenant: Iterable[Property],
    ours: Iterable[Property],
    *,
    install_path: PurePosixPath | None = None,
) -> Merged:
    """The package's file with the tenant's settings and ours. An empty value among ours removes the key.

    With `install_path`, relative values of keys that start with `libraryPath` become absolute below it: for
    readers that do not find the file where the package has it.
    """
    wanted: dict[tuple[str, str], Property] = {}
    removed: set[tuple[str, str]] = set()
    refused: list[str] = []
    for mine, props in ((False, tenant), (True, ours)):
        for given in props:
            prop = neutral(given)
            if prop is None:
                refused.append(f"[{clean(given.section)}] {clean(given.key)}")
                continue
            name = (prop.section, prop.key)
            wanted[name] = prop
            if mine:
                (removed.discard if prop.value else removed.add)(name)
    lines = _replaced(package, wanted, removed)
    added = [prop for name, prop in wanted.items() if name not in removed]
    lines = _appended(lines, added)
    if install_path:
        lines = [_relocated(line, prop, install_path) for line, prop in lines]
    return Merged("".join(f"{_line(line, prop)}\n" for line, prop in lines), tuple(refused))


# A line of the file: as it was read, and the setting it holds. A section header has a setting with an empty
# key, which no real one can have.
_Line = tuple[str, Property | None]


def _read(text: str) -> Iterator[_Line]:
    section = ""
    for raw in text.removesuffix("\n").split("\n") if text else ():
        line = raw.rstrip("\r")
        bare = line.strip()
        if bare.startswith("[") and bare.endswith("]"):
            section = bare[1:-1].strip()
            yield line, Property(section, "", "")
        elif not bare or bare.startswith("#"):
            yield line, None
        else:
            key, _, value = bare.partition(" ")
            yield line, Property(section, key, value.strip())


def _replaced(package: str, wanted: dict[tuple[str, str], Property], removed: set[tuple[str, str]]) -> list[_Line]:
    """The package's lines with wanted values in place; takes out of `wanted` what it has placed.

    A key that stands twice is written once: which of the two an agent believes is not ours to guess.
    """
    lines: list[_Line] = []
    placed: set[tuple[str, str]] = set()
    for line, prop in _read(package):
        name = (prop.section, prop.key) if prop else ("", "")
        if prop is None or not prop.key or (name not in wanted and name not in placed):
            lines.append((line, prop))
        elif name not in placed and name not in removed:
            lines.append(("", wanted.pop(name)))
            placed.add(name)
    return lines


def _appended(lines: list[_Line], added: Iterable[Property]) -> list[_Line]:
    """Settings that the package does not know: after the last one of their section, else at the end."""
    ends = {prop.section: index for index, (_, prop) in enumerate(lines) if prop is not None}
    by_section: dict[str, list[_Line]] = {}
    for prop in sorted(added, key=lambda prop: (prop.section, prop.key)):
        by_section.setdefault(prop.section, []).append(("", prop))
    merged: list[_Line] = []
    for index, (line, held) in enumerate(lines):
        merged.append((line, held))
        if held is not None and ends[held.section] == index:
            merged += by_section.pop(held.section, [])
    for section, props in by_section.items():
        if merged and merged[-1] != ("", None):
            merged.append(("", None))
        merged += [(f"[{section}]", Property(section, "", "")), *props]
    return merged


def _line(line: str, prop: Property | None) -> str:
    """What was read is given back as it was; what is ours has no line yet and is written from the setting."""
    return line or (f"{prop.key} {prop.value}".rstrip() if prop else "")


def _relocated(line: str, prop: Property | None, install_path: PurePosixPath) -> _Line:
    """A relative library path starts in `agent/conf`, where the file lies; no `..` leads out of the agent."""
    if prop is None or not prop.key.startswith("libraryPath") or not prop.value or prop.value.startswith("/"):
        return line, prop
    parts = [part for part in PurePosixPath(prop.value).parts if part != ".."]
    return "", replace(prop, value=str(install_path.joinpath("agent", *parts)))
