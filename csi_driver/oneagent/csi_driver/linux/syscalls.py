"""The kernel's calls that Python does not have: one thin function each, with the kernel's names.

They are called directly and not through a child process: `mount(8)` costs milliseconds, and forking a
process with gRPC's threads in it is unsafe. Every failure is an `OSError(errno, text, path)`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_RELATIME: Final = 1 << 21
UMOUNT_NOFOLLOW: Final = 8

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000
# openat2 has no wrapper in glibc before 2.43; its number is the same on every architecture (Linux 5.6).
_SYS_OPENAT2: Final = 437
_AT_EMPTY_PATH: Final = 0x1000
# These have the same numbers on every architecture, too (Linux 5.2, mount_setattr 5.12).
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOUNT_ATTR_IDMAP: Final = 0x00100000
_SAME_ATTRIBUTES: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
"""Flags of mount(2) that have the same value as those of mount_setattr(2)"""
_MAX_HANDLE_BYTES: Final = 128

_libc = ctypes.CDLL(None, use_errno=True)
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_umount2 = _libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_getdents64 = _libc.getdents64
_getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_getdents64.restype = ctypes.c_ssize_t
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _StatxTimestamp(ctypes.Structure):
    _fields_ = (
        ("tv_sec", ctypes.c_int64),
        ("tv_nsec", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
    )


class _Statx(ctypes.Structure):
    _fields_ = (
        ("stx_mask", ctypes.c_uint32),
        ("stx_blksize", ctypes.c_uint32),
        ("stx_attributes", ctypes.c_uint64),
        ("stx_nlink", ctypes.c_uint32),
        ("stx_uid", ctypes.c_uint32),
        ("stx_gid", ctypes.c_uint32),
        ("stx_mode", ctypes.c_uint16),
        ("spare0", ctypes.c_uint16),
        ("stx_ino", ctypes.c_uint64),
        ("stx_size", ctypes.c_uint64),
        ("stx_blocks", ctypes.c_uint64),
        ("stx_attributes_mask", ctypes.c_uint64),
        ("times", _StatxTimestamp * 4),
        # Device numbers, mount id and what later kernels add: struct statx is 256 bytes in all.
        ("rest", ctypes.c_uint64 * 16),
    )


_statx = _libc.statx
_statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Statx)]


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE_BYTES),
    )


_name_to_handle_at = _libc.name_to_handle_at
_name_to_handle_at.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(_FileHandle),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
]
_open_by_handle_at = _libc.open_by_handle_at
_open_by_handle_at.argtypes = [ctypes.c_int, ctypes.POINTER(_FileHandle), ctypes.c_int]


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def mount(source: str, target: str, fs_type: str, flags: int, data: str = "") -> None:
    """mount(2). `data` must be shorter than a page: the kernel silently truncates the rest."""
    if len(data.encode()) >= 4096:
        raise OSError(7, "mount options are longer than a page", target)
    if _mount(source.encode(), target.encode(), fs_type.encode(), flags, data.encode()) != 0:
        raise _error(target)


def umount2(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2): the topmost mount at `target`."""
    if _umount2(target.encode(), flags) != 0:
        raise _error(target)


def is_mount_root(path: str) -> bool:
    """Return whether `path` is a mount's root (statx, Linux 5.8), without reading the mount table.

    Unlike a comparison of device numbers this sees bind mounts too. `FileNotFoundError` if there is nothing.
    """
    answer = _Statx()
    if _statx(_AT_FDCWD, path.encode(), _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT, 0, ctypes.byref(answer)) != 0:
        raise _error(path)
    return bool(answer.stx_attributes & _STATX_ATTR_MOUNT_ROOT)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2): a descriptor for `path`, which is resolved under the rules of `resolve`."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    descriptor = _syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(path.encode()),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        raise _error(path)
    return int(descriptor)


def open_tree(path: str) -> int:
    """open_tree(2): a descriptor of a mount of its own for this path, which is attached nowhere yet."""
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    descriptor = _syscall(ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(path.encode()), flags)
    if descriptor < 0:
        raise _error(path)
    return int(descriptor)


def mount_setattr(mount: int, attributes: int, user_namespace: int = 0) -> None:
    """mount_setattr(2): set attributes of an open mount; the descriptor of a user namespace for `MOUNT_ATTR_IDMAP`."""
    given = _MountAttributes(attr_set=attributes, userns_fd=user_namespace)
    if (
        _syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(mount),
            ctypes.c_char_p(b""),
            ctypes.c_uint(_AT_EMPTY_PATH),
            ctypes.byref(given),
            ctypes.c_size_t(ctypes.sizeof(given)),
        )
        != 0
    ):
        raise _error("")


def move_mount(mount: int, directory: int) -> None:
    """move_mount(2): attach an open mount to an open directory."""
    if (
        _syscall(
            ctypes.c_long(_SYS_MOVE_MOUNT),
            ctypes.c_int(mount),
            ctypes.c_char_p(b""),
            ctypes.c_int(directory),
            ctypes.c_char_p(b""),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
        )
        != 0
    ):
        raise _error("")


def bind_read_only(source: str, directory: int, flags: int = 0) -> None:
    """Bind a directory to an open one in one step: at no moment is it there and writable.

    Of mount(2)'s `flags` those count that restrict what may be done.
    """
    mount = open_tree(source)
    try:
        mount_setattr(mount, flags & _SAME_ATTRIBUTES | MS_RDONLY)
        move_mount(mount, directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source) from error
    finally:
        os.close(mount)


def getdents64(directory: int, buffer: bytearray) -> int:
    """getdents64(2): fill the buffer with entries of an open directory; return the filled bytes, 0 at the end."""
    filled = _getdents64(directory, (ctypes.c_char * len(buffer)).from_buffer(buffer), len(buffer))
    if filled < 0:
        raise _error("")
    return int(filled)


def open_in_mount(directory: int, mount: int) -> int:
    """Open the open `directory` again as a part of the mount that `mount` lies on (open_by_handle_at(2)).

    rename(2) works between two directories of one file system only if both were opened in the same mount. Both
    descriptors must belong to the same file system: handles mean nothing in another one. Needs CAP_DAC_READ_SEARCH.
    """
    handle = _FileHandle(_MAX_HANDLE_BYTES)
    mount_id = ctypes.c_int()
    if _name_to_handle_at(directory, b"", ctypes.byref(handle), ctypes.byref(mount_id), _AT_EMPTY_PATH) != 0:
        raise _error("")
    descriptor = _open_by_handle_at(mount, ctypes.byref(handle), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if descriptor < 0:
        raise _error("")
    return int(descriptor)
