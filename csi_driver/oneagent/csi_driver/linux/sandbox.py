"""Takes all rights from a process that has to parse what nobody has checked.

`enter` is called once, by the only thread, after all modules are loaded. From then on the process can read and write
the files that it was given, compute, and start threads. It has no capability, no network, no other program, and no way
to other processes or to the files of others; it ends with its parent. Without Landlock in the kernel it can open every
file that root may open, without capabilities.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.csi_driver.linux import landlock, seccomp

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the process, by setrlimit(2)."""

    address_space_bytes: int
    data_bytes: int
    """Heap and stacks: what the process can really fill."""
    file_bytes: int
    open_files: int
    cpu_seconds: int

    def apply(self) -> None:
        for kind, soft, hard in (
            (resource.RLIMIT_AS, self.address_space_bytes, self.address_space_bytes),
            (resource.RLIMIT_DATA, self.data_bytes, self.data_bytes),
            (resource.RLIMIT_FSIZE, self.file_bytes, self.file_bytes),
            (resource.RLIMIT_NOFILE, self.open_files, self.open_files),
            # SIGXCPU says why the process ended; SIGKILL follows.
            (resource.RLIMIT_CPU, self.cpu_seconds, self.cpu_seconds + 1),
            (resource.RLIMIT_CORE, 0, 0),
        ):
            _, most = resource.getrlimit(kind)
            within = [value if most == resource.RLIM_INFINITY else min(value, most) for value in (soft, hard)]
            resource.setrlimit(kind, (within[0], within[1]))


def enter(limits: Limits, parent: int, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Give up all rights but reading below `readable` and writing below `writable`. `OSError`."""
    with contextlib.suppress(OSError):
        # If memory runs out, the kernel ends this process and not its parent.
        Path("/proc/self/oom_score_adj").write_text("1000")
    rules = landlock.Ruleset() if landlock.version() else None
    if rules is not None:
        rules.allow(landlock.READ, readable)
        rules.allow(landlock.READ_WRITE, writable)
    limits.apply()
    # Files get their modes as they are made: later changes are forbidden, because they work on others' files too.
    os.umask(0)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("the parent has ended")
    if rules is not None:
        rules.restrict_self()
    machine = os.uname().machine
    if seccomp.is_supported(machine):
        seccomp.restrict_self(machine)


def _drop_capabilities() -> None:
    header = _CapabilityHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), (ctypes.c_uint32 * 6)()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
