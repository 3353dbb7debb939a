"""Layout of an agent in its package, and the files that it must have.

The package of the deployment API has the agent below `opt/dynatrace/oneagent`; the one without metadata and the
images have it at the top. `agent/bin/current`, which some technologies look for, links to the directory of the
newest version. The entry index alone decides all of this, so the link is made with the rest of the tree: no crash
can leave a version without it.

The first bytes of the preload library name its machine. With a wrong one, every process of a pod would start
with a complaint of the loader and without the agent.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final

from oneagent.common import agents
from oneagent.common.unpack import NotAnAgentError, UnsupportedPackageError, entry_index
from oneagent.common.unpack.entry_index import EntryIndex

NESTED: Final = "opt/dynatrace/oneagent"
_BIN: Final = "agent/bin"
CURRENT: Final = f"{_BIN}/current"
HEADER_BYTES: Final = 20
"""Bytes of an ELF file up to its machine (elf(5))."""
_IDENTITY: Final = struct.Struct("4sBBB")
_MACHINES: Final = {"x86_64": (2, 1, 62), "aarch64": (2, 1, 183), "ppc64le": (2, 1, 21), "s390x": (2, 2, 22)}
"""Class (64 bits), byte order and machine that each machine's loader accepts."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)-(\d+)", re.ASCII)


def prepare(index: EntryIndex) -> str:
    """Return the directory of the agent's root in the package ("" for the package itself).

    Adds the link `current` below it if the package has none, and refuses a package without an agent.
    """
    root = NESTED if NESTED in index.directories else ""
    prefix = f"{root}/" if root else ""
    if not library_path(root, index):
        missing = " or ".join(profile.preload_library for profile in agents.PROFILES)
        raise NotAnAgentError(f"the package has no {missing}")
    current = prefix + CURRENT
    if current in index.files or current in index.directories:
        raise NotAnAgentError(f"{current!r} has to be a link to a version's directory, or absent")
    newest = _newest_version(index, prefix + _BIN)
    if current not in index.links and newest:
        index.add_link(current, newest)
    index.check(root)
    if current in index.links and index.resolve(current, root) not in index.directories:
        raise NotAnAgentError(f"{current!r} does not lead to a directory")
    return root


def read_version(index: EntryIndex) -> str | None:
    """Return the version by the agent's own directories; None if there is none."""
    return _newest_version(index, f"{NESTED}/{_BIN}" if NESTED in index.directories else _BIN)


def library_path(root: str, index: EntryIndex) -> str:
    """Return the path of the preload library in a package whose agent's root is `root`; empty if it has none."""
    prefix = f"{root}/" if root else ""
    paths = (prefix + profile.preload_library for profile in agents.PROFILES)
    return next((path for path in paths if path in index.files), "")


def check_machine(beginning: bytes, machine: str | None = None, *, library: str = "the preload library") -> None:
    """Refuse a preload library for another machine, by its first bytes. The default is this machine.

    A file that is not ELF passes: it is not for any machine.
    """
    machine = machine or os.uname().machine
    if len(beginning) < HEADER_BYTES or machine not in _MACHINES:
        return
    magic, wordsize, order, edition = _IDENTITY.unpack_from(beginning)
    if magic != b"\x7fELF" or wordsize not in (1, 2) or order not in (1, 2) or edition != 1:
        return
    kind = int.from_bytes(beginning[18:20], "little" if order == 1 else "big")
    target = wordsize, order, kind
    if target != _MACHINES[machine]:
        bits, end = 32 * wordsize, ("little", "big")[order - 1]
        unknown = f"machine {kind} of ELF with {bits} bits, {end}-endian"
        known = next((name for name, values in _MACHINES.items() if values == target), unknown)
        raise UnsupportedPackageError(f"{library.removeprefix(f'{NESTED}/')} is for {known}, this node is {machine}")


def _newest_version(index: EntryIndex, directory: str) -> str | None:
    versions = {
        tuple(map(int, match.groups())): match[0]
        for path in index.directories
        if entry_index.parent_path(path) == directory and (match := _VERSION.fullmatch(path.rpartition("/")[2]))
    }
    return versions[max(versions)] if versions else None
