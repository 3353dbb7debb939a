"""Where the agent lies in a package, and what has to be in it.

The package of the deployment API holds the agent below `opt/dynatrace/oneagent`, the one without
metadata and the images hold it at the top. `agent/bin/current`, which some technologies are found by,
names the newest version folder. All of this is decided from the outline, so that the link is made with
the rest of the tree: a crash can leave no version without it.

For which machine the preload library is made shows in its first bytes, once they are there. Every process of a
pod would start with a complaint of the loader about a wrong one, and without the agent.
"""

from __future__ import annotations

import platform
import re
import struct
from typing import Final

from oneagent.common import identifiers, unpack
from oneagent.common.unpack import NotAnAgentError, UnsupportedPackageError

NESTED: Final = "opt/dynatrace/oneagent"
_BIN: Final = "agent/bin"
CURRENT: Final = f"{_BIN}/current"
HEADER_BYTES: Final = 20
"""Of an ELF file, up to its machine (elf(5))."""
_IDENTITY: Final = struct.Struct("4sBBB")
_MACHINES: Final = {"x86_64": (2, 1, 62), "aarch64": (2, 1, 183), "ppc64le": (2, 1, 21), "s390x": (2, 2, 22)}
"""Class (64 bits), byte order and machine that the loader of a machine takes."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)-(\d+)", re.ASCII)


def prepare(outline: unpack.EntryIndex) -> str:
    """The folder in the package that is the agent's root ("" for the package itself).

    Adds the link `current` below it if the package has none, and refuses what is no agent.
    """
    root = NESTED if NESTED in outline.directories else ""
    prefix = f"{root}/" if root else ""
    if library(root) not in outline.files:
        raise NotAnAgentError(f"the package has no {identifiers.PRELOAD_LIBRARY}")
    current = prefix + CURRENT
    if current in outline.files or current in outline.directories:
        raise NotAnAgentError(f"{current!r} has to be a link to a version's folder, or absent")
    newest = _newest(outline, prefix + _BIN)
    if current not in outline.links and newest:
        outline.add_link(current, newest)
    outline.check(root)
    if current in outline.links and outline.resolve(current, root) not in outline.directories:
        raise NotAnAgentError(f"{current!r} does not lead to a folder")
    return root


def version(outline: unpack.EntryIndex) -> str | None:
    """The version that the agent in a package says it is; None if it doesn't say."""
    return _newest(outline, f"{NESTED}/{_BIN}" if NESTED in outline.directories else _BIN)


def library(root: str) -> str:
    """The path of the preload library in a package whose agent lies in the folder `root`."""
    return f"{root}/{identifiers.PRELOAD_LIBRARY}" if root else identifiers.PRELOAD_LIBRARY


def check_machine(beginning: bytes, machine: str | None = None) -> None:
    """Refuse a preload library, known by its first bytes, that is for another machine than this or the one given.

    What is no ELF file at all is not judged: it is not for any machine.
    """
    machine = machine or platform.machine()
    if len(beginning) < HEADER_BYTES or machine not in _MACHINES:
        return
    magic, wordsize, order, edition = _IDENTITY.unpack_from(beginning)
    if magic != b"\x7fELF" or wordsize not in (1, 2) or order not in (1, 2) or edition != 1:
        return
    kind = int.from_bytes(beginning[18:20], "little" if order == 1 else "big")
    made_for = wordsize, order, kind
    if made_for != _MACHINES[machine]:
        bits, end = 32 * wordsize, ("little", "big")[order - 1]
        unknown = f"machine {kind} of ELF with {bits} bits, {end}-endian"
        known = next((name for name, values in _MACHINES.items() if values == made_for), unknown)
        raise UnsupportedPackageError(f"{identifiers.PRELOAD_LIBRARY} is for {known}, this node is {machine}")


def _newest(outline: unpack.EntryIndex, folder: str) -> str | None:
    found = {
        tuple(map(int, match.groups())): match[0]
        for path in outline.directories
        if unpack.parent(path) == folder and (match := _VERSION.fullmatch(path.rpartition("/")[2]))
    }
    return found[max(found)] if found else None
