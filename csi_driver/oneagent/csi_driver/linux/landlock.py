"""Landlock: restricts which files a process may use, without privileges (landlock(7), since Linux 5.13).

What no rule allows is forbidden. The restriction is for good, and new threads have it too. Only opening, creating,
removing and renaming are covered: calls such as chmod(2), flock(2) and, before Linux 6.2, truncate(2) are not, and
need a system call filter beside it (see `seccomp`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Final

READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
READ: Final = READ_FILE | READ_DIR
_WRITE_FILE: Final = 1 << 1
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_MAKE_SYM: Final = 1 << 12
_TRUNCATE: Final = 1 << 14
READ_WRITE: Final = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _TRUNCATE
"""Regular files, directories and symbolic links may be made; devices, pipes, sockets and hard links may not."""

_FS_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of rights for files by version of the interface; later versions have as many as 5."""
_NET_RIGHTS: Final = 0b11
_SCOPES: Final = 0b11

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
# The same numbers on every architecture.
_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Return the version of the kernel's interface; 0 if it has none, or may not be asked."""
    return max(0, int(_syscall(ctypes.c_long(_SYS_CREATE_RULESET), None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


class Ruleset:
    """Rules for this thread and those that it starts: paths and what may be done below each."""

    def __init__(self) -> None:
        """`OSError` if the kernel has no Landlock."""
        found = version()
        self._handled = (1 << _FS_RIGHTS.get(found, _FS_RIGHTS[5])) - 1
        attributes = _RulesetAttr(self._handled, _NET_RIGHTS if found >= 4 else 0, _SCOPES if found >= 6 else 0)
        # Older kernels accept the larger structure as long as what they don't know is zero.
        self._fd = _call(
            _SYS_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint(0)
        )

    def allow(self, rights: int, paths: Iterable[str]) -> None:
        """Allow `rights` at and below each path; a path that is missing needs none."""
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                # A file has no rights of a directory.
                allowed = rights if os.path.isdir(path) else rights & (READ_FILE | _WRITE_FILE | _TRUNCATE)
                attributes = _PathBeneathAttr(allowed & self._handled, fd)
                _call(
                    _SYS_ADD_RULE,
                    ctypes.c_int(self._fd),
                    ctypes.c_int(_RULE_PATH_BENEATH),
                    ctypes.byref(attributes),
                    ctypes.c_uint(0),
                )
            finally:
                os.close(fd)

    def restrict_self(self) -> None:
        """Forbid everything else from now on. Needs PR_SET_NO_NEW_PRIVS."""
        _call(_SYS_RESTRICT_SELF, ctypes.c_int(self._fd), ctypes.c_uint(0))
        os.close(self._fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
