"""A shared object that does nothing, in the place of the agent's library where a pod has no agent.

`LD_PRELOAD` is set when a pod is created. If the agent does not come, the loader would print for each process that the
library cannot be preloaded. This one is loaded instead: one page, without code, symbols, relocations or dependencies.

Layout (elf(5), System V ABI): header, three program headers, then the dynamic section and the tables that it names.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
from typing import Final

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY

_MACHINES: Final = {"x86_64": 62, "aarch64": 183}
"""`e_machine` by the name that uname(2) gives"""
_HEADER_BYTES: Final = 64
_SEGMENT_BYTES: Final = 56
_SYMBOL_BYTES: Final = 24
_SHARED_OBJECT: Final = 3
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE: Final = 6
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 0, 4, 5, 6, 10, 11, 14
_LARGEST_PAGE: Final = 0x10000
"""Of a kernel for aarch64: loaders refuse a segment that is aligned to less than a page"""
_NAME: Final = b"oneagent-inert.so"
"""The library's own name (in its dynamic section), which no agent's library has"""
_MAX_BYTES: Final = 1024


def render(machine: str = "") -> bytes:
    """Return the file for a machine, by default this one; empty for one that is not known."""
    if (code := _MACHINES.get(machine or platform.machine())) is None:
        return b""
    strings = b"\0" + _NAME + b"\0"
    symbols = bytes(_SYMBOL_BYTES)
    # One bucket and the null symbol only. musl looks into this table without asking whether there is one.
    symbol_hash = struct.pack("<4I", 1, 1, 0, 0)
    dynamic_at = _HEADER_BYTES + 3 * _SEGMENT_BYTES
    dynamic_bytes = 7 * 16
    symbols_at = dynamic_at + dynamic_bytes
    hash_at = symbols_at + len(symbols)
    strings_at = hash_at + len(symbol_hash)
    end = strings_at + len(strings)
    dynamic = b"".join(
        struct.pack("<QQ", *entry)
        for entry in (
            (_DT_SONAME, 1),
            (_DT_HASH, hash_at),
            (_DT_STRTAB, strings_at),
            (_DT_SYMTAB, symbols_at),
            (_DT_STRSZ, len(strings)),
            (_DT_SYMENT, _SYMBOL_BYTES),
            (_DT_NULL, 0),
        )
    )
    # Writable, because glibc changes the addresses of the dynamic section in place. Without the last one it would make
    # the process's stack executable, or refuse to load the library.
    segments = (
        _segment(_PT_LOAD, 0, end, _LARGEST_PAGE),
        _segment(_PT_DYNAMIC, dynamic_at, dynamic_bytes, 8),
        _segment(_PT_GNU_STACK, 0, 0, 16),
    )
    return b"".join((_header(code, len(segments)), *segments, dynamic, symbols, symbol_hash, strings))


def write(agent: int, preload_library: str = PRELOAD_LIBRARY) -> None:
    """Write the library to its place below an open directory, unless something is there; `OSError` on failure.

    Follows no symlink. Containers of any user can read it, whatever the umask.
    """
    if not (content := render()):
        return
    *parents, name = preload_library.split("/")
    with contextlib.ExitStack() as stack:
        directory = agent
        for parent in parents:
            directory = _open_directory(parent, directory)
            stack.callback(os.close, directory)
        try:
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except FileExistsError:
            return
        stack.callback(os.close, file)
        try:
            os.write(file, content)
            os.fchmod(file, 0o644)
        except OSError:
            os.unlink(name, dir_fd=directory)
            raise


def is_inert(path: str) -> bool:
    """Return whether a file is this library, for whatever machine; `OSError` if it can't be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)
    return len(content) < _MAX_BYTES and content.endswith(b"\0" + _NAME + b"\0")


def _open_directory(name: str, parent: int) -> int:
    """Open a directory, created unless it exists."""
    created = True
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        created = False
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if created:
        os.fchmod(directory, 0o755)
    return directory


def _header(machine: int, segments: int) -> bytes:
    identification = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little-endian, version 1, System V
    return identification + struct.pack(
        *("<HHIQQQIHHHHHH", _SHARED_OBJECT, machine, 1, 0, _HEADER_BYTES, 0, 0),
        *(_HEADER_BYTES, _SEGMENT_BYTES, segments, 0, 0, 0),
    )


def _segment(kind: int, at: int, size: int, align: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, _READ_WRITE, at, at, at, size, size, align)
