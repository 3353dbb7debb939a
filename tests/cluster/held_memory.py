"""Memory that processes hold, with each page counted once.

RSS counts a shared page in each process. PSS divides it among all processes of the machine, so it is too low for
processes whose files others map too, such as a Python interpreter.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Linux, Documentation/admin-guide/mm/pagemap.rst.
_ENTRY: Final = struct.Struct("=Q")
_PRESENT: Final = 1 << 63
_FRAME: Final = (1 << 55) - 1


def held_mib(pids: Iterable[int]) -> float:
    """Return the MiB of all processes together; `PermissionError` unless this is root of the machine."""
    frames = set[int]().union(*map(_frames, pids))
    if frames <= {0}:
        raise PermissionError("only the machine's root sees page frames")
    return len(frames) * mmap.PAGESIZE / (1 << 20)


def _frames(pid: int) -> set[int]:
    found = set[int]()
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last = (int(address, 16) // mmap.PAGESIZE for address in line.split()[0].split("-"))
            if "[vsyscall]" in line or "---p" in line:
                continue
            pagemap.seek(first * _ENTRY.size)
            for (entry,) in _ENTRY.iter_unpack(pagemap.read((last - first) * _ENTRY.size)):
                if entry & _PRESENT:
                    found.add(entry & _FRAME)
    return found
