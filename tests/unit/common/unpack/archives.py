"""Archives that no honest program writes, made by hand or from good ones."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Final

from tests.fakes import packages

LINK: Final = 0o120777
FOLDER: Final = 0o040755


def of(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, mode in entries:
            packages.write(archive, name, content, mode)
    return path


def renamed(path: Path, old: str, new: str) -> Path:
    """An entry's name changed in both places: the writer in the library would not take such names."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert data.count(old.encode()) == 2
    path.write_bytes(data.replace(old.encode(), new.encode()))
    return path


def patched(path: Path, signature: bytes, offset: int, value: bytes) -> Path:
    """Bytes replaced in the first record that starts with `signature`."""
    data = bytearray(path.read_bytes())
    start = data.index(signature) + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def both(path: Path, local: int, central: int, value: bytes) -> Path:
    """The same field of the first member changed in the local header and in the central directory."""
    patched(path, b"PK\x03\x04", local, value)
    return patched(path, b"PK\x01\x02", central, value)


def overlapping(path: Path, members: int = 20) -> Path:
    """One piece of data that all members share."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bytes(1000)
    data = packed.compress(content) + packed.flush()
    crc = zlib.crc32(content)
    body, directory = b"", b""
    for number in range(members):
        name = f"file{number:03}".encode()
        fields = (20, 0, 8, 0, 33, crc, len(data), len(content), len(name), 0)
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0) + name
        if not body:
            body = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + name + data
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, members, members, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path
