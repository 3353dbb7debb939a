"""A program made by hand: for x86-64, dynamically linked, started by the loader that it names, and then only waiting.

No distribution's packages have programs that musl's loader starts, and not every machine has a compiler.
"""

from __future__ import annotations

import struct
from typing import Final

MUSL: Final = "/lib/ld-musl-x86_64.so.1"

_BASE: Final = 0x400000
_HEADER, _SEGMENT = 64, 56
_LOAD, _DYNAMIC, _INTERPRETER, _HEADERS = 1, 2, 3, 6
_STRINGS, _SYMBOLS, _HASH, _STRINGS_SIZE, _SYMBOL_SIZE = 5, 6, 4, 10, 11
_PAUSE_FOR_EVER: Final = bytes.fromhex("b8220000000f05ebf7")  # mov eax, SYS_pause; syscall; jmp to the start


def waiting(loader: str = MUSL) -> bytes:
    """The program's file."""
    parts = {
        "interpreter": loader.encode() + b"\0",
        "strings": b"\0",
        "symbols": bytes(24),
        "hash": struct.pack("<4I", 1, 1, 0, 0),
        "code": _PAUSE_FOR_EVER,
        "dynamic": bytes(6 * 16),
    }
    place, places = _HEADER + 4 * _SEGMENT, dict[str, int]()
    for name, part in parts.items():
        places[name] = place = (place + 15) & ~15
        place += len(part)
    entries = (
        (_STRINGS, _BASE + places["strings"]),
        (_SYMBOLS, _BASE + places["symbols"]),
        (_HASH, _BASE + places["hash"]),
        (_STRINGS_SIZE, 1),
        (_SYMBOL_SIZE, 24),
        (0, 0),
    )
    parts["dynamic"] = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    content = bytearray(place)
    content[:_HEADER] = struct.pack(
        *("<4s12xHHIQQQIHHHHHH", b"\x7fELF", 2, 62, 1, _BASE + places["code"], _HEADER, 0, 0, _HEADER, _SEGMENT, 4),
        *(0, 0, 0),
    )
    content[4:8] = bytes((2, 1, 1, 0))  # 64 bits, little-endian, version 1, System V
    segments = (
        (_HEADERS, 4, _HEADER, 4 * _SEGMENT, 8),
        (_INTERPRETER, 4, places["interpreter"], len(parts["interpreter"]), 1),
        (_LOAD, 7, 0, place, 0x1000),
        (_DYNAMIC, 6, places["dynamic"], len(parts["dynamic"]), 8),
    )
    for number, (kind, flags, start, size, align) in enumerate(segments):
        header = struct.pack("<IIQQQQQQ", kind, flags, start, _BASE + start, _BASE + start, size, size, align)
        content[_HEADER + number * _SEGMENT : _HEADER + (number + 1) * _SEGMENT] = header
    for name, part in parts.items():
        content[places[name] : places[name] + len(part)] = part
    return bytes(content)
