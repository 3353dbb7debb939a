"""Zips, written field by field, so that a zip's descriptions of a member can contradict each other."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Final

from oneagent.common.agents import oneagent
from tests.fuzz import alterations
from tests.fuzz.alterations import Chance

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_PLAIN: Final = ("a", "b", "c", "A", "agent", "bin", "1.2.3.4-5", "current", "ä")
_STRANGE: Final = ("..", ".", "", "a\n", "a\\b", "C:", "n" * 255, "n" * 256, "a\0b", "a\x7f", "/", "d/" * 70)
_TARGETS: Final = ("a", "b", "../a", ".", "..", "/etc/passwd", "../../etc/passwd", "", "a/../b", "current", "a\0b")
_MODES: Final = (0o100644, 0o100644, 0o100644, 0o100755, 0o104755, 0o120777, 0o040755, 0, 0o020644, 0o010644, 0o777)
_NUMBERS: Final = (0, 1, 2, 5, 8, 9, 20, 64, 0x800, 0xFFFF)
_LONG_NUMBERS: Final = (0, 1, 2, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_EXTRAS: Final = (
    *(b"", b"", b"", b"\x55\x54\x05\x00\x01abcd", b"\x01\x00\x08\x00" + bytes(8), b"\x01\x00\x10\x00" + b"\xff" * 16),
    *(b"\x01\x00\x18\x00" + b"\x05" + bytes(23), b"\x01\x00", b"\x75\x70\x06\x00\x01\x00\x00\x00\x00b", b"\xff" * 4),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`sound`: nothing is odd, so it must not be refused."""

    data: bytes
    sound: bool


@dataclass(frozen=True)
class _Header:
    """What both descriptions of a member say; `offset` and `attributes` are in the directory only."""

    name: bytes
    flags: int = 0x800
    method: int = 8
    crc: int = 0
    packed: int = 0
    size: int = 0
    extra: bytes = b""
    offset: int = 0
    attributes: int = 0o100644 << 16
    system: int = 3

    def local(self) -> bytes:
        fields = (20, self.flags, self.method, 0, 33, self.crc, self.packed, self.size, len(self.name), len(self.extra))
        return _LOCAL.pack(b"PK\x03\x04", *fields) + self.name + self.extra

    def central(self) -> bytes:
        fields = (20, self.flags, self.method, 0, 33, self.crc, self.packed, self.size, len(self.name), len(self.extra))
        places = (0, 0, 0, self.attributes, self.offset)
        return _CENTRAL.pack(b"PK\x01\x02", self.system << 8 | 20, *fields, *places) + self.name + self.extra


def case(chance: Chance) -> Case:
    sound = chance.random() < 0.15
    members = [_library(), *(_sound(chance, n) if sound else _odd(chance) for n in range(chance.randrange(7)))]
    body, directory = bytearray(), b""
    for header, data in members:
        central = header if sound else _contradicting(chance, header)
        offset = len(body) if sound or chance.random() < 0.97 else chance.choice((0, 1, len(body) + 7))
        directory += replace(central, offset=offset).central()
        body += (header if sound else _contradicting(chance, header)).local() + data
        if not sound and chance.random() < 0.03:
            body += chance.choice((b"between", header.local() + data))
    counted = len(members) if sound or chance.random() < 0.97 else chance.choice(_NUMBERS)
    comment = chance.choice((b"", b"a comment"))
    end = _END.pack(b"PK\x05\x06", 0, 0, counted, counted, len(directory), len(body), len(comment)) + comment
    if sound:
        return Case(bytes(body) + directory + end, sound=True)
    return Case(_altered(chance, bytes(body), directory, end), sound=False)


def _library() -> tuple[_Header, bytes]:
    return _member(_Header(oneagent.PRELOAD_LIBRARY.encode(), attributes=0o100755 << 16), b"\x7fELF" + bytes(9))


def _member(header: _Header, content: bytes) -> tuple[_Header, bytes]:
    data = _deflated(content) if header.method == 8 else content
    return replace(header, crc=zlib.crc32(content), packed=len(data), size=len(content)), data


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def _content(chance: Chance) -> bytes:
    return b"%d" % chance.randrange(1000) * chance.choice((0, 1, 2, 300))


def _sound(chance: Chance, number: int) -> tuple[_Header, bytes]:
    """Names of one's own for each kind of thing, so that nothing is in the way of anything."""
    above, method = chance.choice(("", "d/", "e/f/", "ä/")), chance.choice((0, 8))
    match chance.randrange(3):
        case 0:
            return _member(_Header(f"{above}folder{number}/".encode(), method=0, attributes=0o040755 << 16), b"")
        case 1:
            header = _Header(f"link{number}".encode(), method=method, attributes=0o120777 << 16)
            return _member(header, oneagent.PRELOAD_LIBRARY.encode())
        case _:
            attributes = chance.choice((0o100644, 0o104755, 0o100000, 0)) << 16
            header = _Header(f"{above}file{number}".encode(), method=method, attributes=attributes)
            return _member(header, _content(chance))


def _odd(chance: Chance) -> tuple[_Header, bytes]:
    mode = chance.choice(_MODES)
    path = "/".join(chance.choice(_PLAIN) for _ in range(chance.choice((1, 1, 2, 3))))
    if chance.random() < 0.08:
        path = chance.choice((f"{path}/", "./", "../", "/")) + chance.choice(_STRANGE)
    if mode >> 12 == 4 or chance.random() < 0.05:
        path += "/"
    flags, method = 0x800, chance.choice((0, 8, 8)) if chance.random() < 0.97 else chance.choice(_NUMBERS)
    raw = path.encode()
    if chance.random() < 0.05:
        flags, raw = chance.choice(
            ((0, path.encode("cp437")), (0x808, raw), (0x801, raw), (0x800, b"\xff\xfe"), (0x20, raw))
        )
    content = (
        chance.choice(_TARGETS).encode() if mode >> 12 == 0o12 else b"" if path.endswith("/") else _content(chance)
    )
    system = 3 if chance.random() < 0.97 else chance.choice((0, 10, 19))
    header = _Header(raw, flags, method, attributes=mode << 16, system=system)
    header, data = _member(header, content)
    return header, alterations.anyhow(chance, data) if chance.random() < 0.03 else data


def _contradicting(chance: Chance, header: _Header) -> _Header:
    """Mostly the same; now and then with one field that says something else."""
    if chance.random() < 0.96:
        return header
    match chance.randrange(8):
        case 0:
            return replace(header, flags=header.flags ^ 1 << chance.randrange(16))
        case 1:
            return replace(header, method=chance.choice(_NUMBERS))
        case 2:
            return replace(header, crc=chance.choice(_LONG_NUMBERS))
        case 3:
            return replace(header, packed=chance.choice((header.packed + 1, max(0, header.packed - 1), *_LONG_NUMBERS)))
        case 4:
            return replace(header, size=chance.choice((header.size + 1, max(0, header.size - 1), *_LONG_NUMBERS)))
        case 5:
            return replace(header, name=chance.choice((header.name + b"x", header.name[:-1], b"", b"a\0b", b"\xff")))
        case 6:
            return replace(header, attributes=chance.choice(_MODES) << 16)
        case _:
            return replace(header, extra=chance.choice(_EXTRAS))


def _altered(chance: Chance, body: bytes, directory: bytes, end: bytes) -> bytes:
    """Most cases stay as they are; of the others, the directory and the end are changed more often than the content."""
    match chance.randrange(10):
        case 0:
            directory = _number(chance, directory)
        case 1:
            end = _number(chance, end)
        case 2:
            directory = alterations.anyhow(chance, directory)
        case 3:
            return alterations.anyhow(chance, body + directory + end)
        case 4:
            body = _number(chance, body)
        case _:
            pass
    return body + directory + end


def _number(chance: random.Random, data: bytes) -> bytes:
    """Another number of two or four bytes somewhere."""
    form = chance.choice(("<H", "<L"))
    value = chance.choice(_NUMBERS if form == "<H" else _LONG_NUMBERS)
    at = chance.randrange(max(1, len(data) - 4))
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]
