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


class MergeResult(NamedTuple):
    """The file's text, and `[section] key` of each property that was refused because of its form."""

    text: str
    refused: tuple[str, ...]


def to_single_line(text: str) -> str:
    """Remove control characters, line separators and outer white space."""
    return _UNPRINTABLE.sub("", text).strip()


def sanitize(prop: Property) -> Property | None:
    """Return the property in a form that is this one line only; `None` if there is no such form."""
    # A key is not stripped: one with outer white space is as strange as one with inner, and refused alike.
    section, key = to_single_line(prop.section), _UNPRINTABLE.sub("", prop.key)
    if _UNSAFE_SECTION.search(section) or _UNSAFE_KEY.search(key):
        return None
    return Property(section, key, to_single_line(prop.value))


def general_properties(
    *,
    host_group: str | None = None,
    tenant: str | None = None,
    tenant_token: str | None = None,
    endpoints: Sequence[str] | None = None,
    proxy: str | None = None,
) -> list[Property]:
    """Return the cluster's settings for `merge`: `None` leaves a key alone, an empty value removes it."""
    address = None if endpoints is None else f"{{{';'.join(endpoints)}}}" if endpoints else ""
    desired = {
        "hostGroup": host_group,
        "tenant": tenant,
        "tenantToken": tenant_token,
        "serverAddress": address,
        "proxy": proxy,
    }
    return [Property(GENERAL, key, value) for key, value in desired.items() if value is not None]


def parse(text: str) -> list[Property]:
    """Return every setting in the order of the file; lines before the first section have the section `""`."""
    return [prop for _, prop in _parse_lines(text) if prop is not None and prop.key]


def merge(
    package: str,
    tenant: Iterable[Property],
    cluster: Iterable[Property],
    *,
    install_path: PurePosixPath | None = None,
) -> MergeResult:
    """Merge the package's file with the tenant's settings and the cluster's.

    An empty value of the cluster removes the key.
    With `install_path`, relative values of keys that start with `libraryPath` become absolute below it: for
    readers that do not find the file where the package has it.
    """
    desired: dict[tuple[str, str], Property] = {}
    removed: set[tuple[str, str]] = set()
    refused: list[str] = []
    for is_cluster, props in ((False, tenant), (True, cluster)):
        for given in props:
            prop = sanitize(given)
            if prop is None:
                refused.append(f"[{to_single_line(given.section)}] {to_single_line(given.key)}")
                continue
            name = (prop.section, prop.key)
            desired[name] = prop
            if is_cluster:
                (removed.discard if prop.value else removed.add)(name)
    lines = _replace_lines(package, desired, removed)
    added = [prop for name, prop in desired.items() if name not in removed]
    lines = _append_lines(lines, added)
    if install_path:
        lines = [_make_path_absolute(line, prop, install_path) for line, prop in lines]
    return MergeResult("".join(f"{_format_line(line, prop)}\n" for line, prop in lines), tuple(refused))


# A line of the file: as it was read, and the setting it holds. A section header has a setting with an empty
# key, which no real one can have.
_Line = tuple[str, Property | None]


def _parse_lines(text: str) -> Iterator[_Line]:
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


def _replace_lines(
    package: str, desired: dict[tuple[str, str], Property], removed: set[tuple[str, str]]
) -> list[_Line]:
    """Replace the package's lines in place; removes from `desired` what it has replaced.

    A key that appears twice is written once: agents differ in which of the two they use.
    """
    lines: list[_Line] = []
    replaced: set[tuple[str, str]] = set()
    for line, prop in _parse_lines(package):
        name = (prop.section, prop.key) if prop else ("", "")
        if prop is None or not prop.key or (name not in desired and name not in replaced):
            lines.append((line, prop))
        elif name not in replaced and name not in removed:
            lines.append(("", desired.pop(name)))
            replaced.add(name)
    return lines


def _append_lines(lines: list[_Line], added: Iterable[Property]) -> list[_Line]:
    """Insert settings that the package does not have: after the last one of their section, else at the end."""
    ends = {prop.section: index for index, (_, prop) in enumerate(lines) if prop is not None}
    by_section: dict[str, list[_Line]] = {}
    for prop in sorted(added, key=lambda prop: (prop.section, prop.key)):
        by_section.setdefault(prop.section, []).append(("", prop))
    merged: list[_Line] = []
    for index, (line, setting) in enumerate(lines):
        merged.append((line, setting))
        if setting is not None and ends[setting.section] == index:
            merged += by_section.pop(setting.section, [])
    for section, props in by_section.items():
        if merged and merged[-1] != ("", None):
            merged.append(("", None))
        merged += [(f"[{section}]", Property(section, "", "")), *props]
    return merged


def _format_line(line: str, prop: Property | None) -> str:
    """Return a read line unchanged; a new setting has no line yet and is formatted."""
    return line or (f"{prop.key} {prop.value}".rstrip() if prop else "")


def _make_path_absolute(line: str, prop: Property | None, install_path: PurePosixPath) -> _Line:
    """Make a relative library path absolute. It starts in `agent/conf`, and no `..` leads out of the agent."""
    if prop is None or not prop.key.startswith("libraryPath") or not prop.value or prop.value.startswith("/"):
        return line, prop
    parts = [part for part in PurePosixPath(prop.value).parts if part != ".."]
    return "", replace(prop, value=str(install_path.joinpath("agent", *parts)))
