"""A filter of system calls (seccomp(2)) for a process that reads and writes files, and nothing else.

Forbidden are the network, other programs and processes, what Landlock does not cover (modes, owners, times, locks,
truncation, ioctl), and what changes the machine. A forbidden call fails with EPERM, so that a program sees an error and
not its end. Calls that are newer than this list do not exist for the process: libraries then use older ones.

The numbers are those of <asm/unistd.h>, by machine. There is no filter for other machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

# <linux/filter.h>: classic BPF over struct seccomp_data {nr, arch, instruction pointer, six arguments of 64 bits}.
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

_NEWEST: Final = 452
"""fchmodat2, the newest call of this list."""
_CLONE_THREAD: Final = 0x00010000

# Numbers from 424 on are the same on every machine: pidfd_send_signal, io_uring (3), open_tree, move_mount, fsopen,
# fsconfig, fsmount, fspick, pidfd_open, pidfd_getfd, process_madvise, mount_setattr, quotactl_fd, process_mrelease,
# set_mempolicy_home_node, fchmodat2.
_COMMON: Final = (*range(424, 435), 438, 440, 442, 443, 448, 450, 452)
# Their arguments lie behind a pointer, which a filter can't follow: openat2 and clone3.
_ABSENT: Final = (437, 435)


class _Flags(NamedTuple):
    """A call whose argument must not have one of the bits `forbidden`, or must have one of `required`."""

    number: int
    argument: int
    forbidden: int = 0
    required: int = 0


class _Machine(NamedTuple):
    arch: int
    """AUDIT_ARCH_* of <linux/audit.h>."""
    denied: tuple[int, ...]
    flags: tuple[_Flags, ...]


_X86_64: Final = _Machine(
    0xC000003E,
    (
        *(41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 288, 299, 307),  # socket … sendmmsg
        *(57, 58, 59, 322, 101, 310, 311, 312),  # fork, vfork, execve, execveat, ptrace, process_vm_*, kcmp
        *(62, 129, 200, 234, 297),  # kill, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo
        *(141, 142, 144, 203, 251, 314, 160, 302, 256, 279),  # priorities, affinity and limits, also of others
        *(29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 220, 240, 241),  # System V and POSIX queues, semaphores, memory
        *(90, 91, 268, 92, 93, 94, 260),  # chmod, fchmod, fchmodat, chown …
        *(132, 235, 261, 280, 188, 189, 190, 197, 198, 199),  # utime …, setxattr …, removexattr …
        *(73, 76, 85, 16, 133, 259, 86, 265),  # flock, truncate, creat, ioctl, mknod, mknodat, link, linkat
        *(161, 155, 165, 166, 272, 308, 135, 157),  # chroot, pivot_root, mount, umount2, unshare, setns, prctl
        *(105, 106, 113, 114, 116, 117, 119, 126),  # setuid …, capset
        *(163, 164, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 159, 227, 305, 313, 246, 320),  # the machine
        *(248, 249, 250, 298, 321, 323, 253, 294, 300, 303, 304),  # keys, perf, bpf, userfaultfd, notify, handles
    ),
    (_Flags(2, 1, os.O_TRUNC), _Flags(257, 2, os.O_TRUNC), _Flags(56, 0, required=_CLONE_THREAD)),
)
_AARCH64: Final = _Machine(
    0xC00000B7,
    (
        *(198, 199, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 242, 243, 269),
        *(221, 281, 117, 270, 271, 272),
        *(129, 138, 130, 131, 240),
        *(140, 118, 119, 122, 30, 274, 164, 261, 238, 239),
        *(194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181),
        *(52, 53, 54, 55),
        *(88, 5, 6, 7, 14, 15, 16),
        *(32, 45, 29, 33, 37),
        *(51, 41, 40, 39, 97, 268, 92, 167),
        *(146, 144, 145, 143, 147, 149, 159, 91),
        *(89, 170, 224, 225, 142, 161, 162, 105, 106, 60, 171, 112, 266, 273, 104, 294),
        *(217, 218, 219, 241, 280, 282, 26, 262, 264, 265),
    ),
    (_Flags(56, 2, os.O_TRUNC), _Flags(220, 0, required=_CLONE_THREAD)),
)
_MACHINES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_supported(machine: str) -> bool:
    """Return True if there is a filter for this machine (`os.uname().machine`)."""
    return machine in _MACHINES


def restrict_self(machine: str) -> None:
    """Forbid the calls to this thread and those that it starts, for good. Needs PR_SET_NO_NEW_PRIVS; `OSError`."""
    code = b"".join(_instructions(_MACHINES[machine]))
    program = _Program(len(code) // 8, code)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _instructions(machine: _Machine) -> Iterator[bytes]:
    deny, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    yield _instruction(_LOAD, _ARCH)
    # Other calling conventions of the same machine have other numbers.
    yield _instruction(_EQUAL, machine.arch, 1, 0)
    yield _instruction(_RETURN, _KILL_PROCESS)
    yield _instruction(_LOAD, _NUMBER)
    yield from _rule(_AT_LEAST, _NEWEST + 1, absent)
    for number in _ABSENT:
        yield from _rule(_EQUAL, number, absent)
    for number in (*machine.denied, *_COMMON):
        yield from _rule(_EQUAL, number, deny)
    for flags in machine.flags:
        yield _instruction(_EQUAL, flags.number, 0, 4)
        # Both machines store the low half of an argument first, and the flags are there.
        yield _instruction(_LOAD, _ARGUMENTS + 8 * flags.argument)
        bits, allowed = flags.forbidden or flags.required, _instruction(_RETURN, _ALLOW)
        denied = _instruction(_RETURN, deny)
        yield _instruction(_ANY_BIT, bits, 0, 1)
        yield from (denied, allowed) if flags.forbidden else (allowed, denied)
    yield _instruction(_RETURN, _ALLOW)


def _rule(compare: int, value: int, result: int) -> Iterator[bytes]:
    yield _instruction(compare, value, 0, 1)
    yield _instruction(_RETURN, result)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
