"""Reads an untrusted tar from front to back in bounded memory.

The standard library decodes a header's 512 bytes. The sequence of headers is our own code, because `tarfile` reads
an extended header of any declared size into memory, applies global headers that other programs ignore, and
ends silently where a tar is cut short. A tar that two programs could read differently is refused.

A layer's digest proves its bytes, so the blocks of zeros at its end may be missing. An entry that no agent may have is
handed on with its `problem`: what is outside of the agent's directory is not used, and the image stays usable.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from enum import Enum
from typing import Final

import msgspec

from oneagent.common.unpack import CorruptPackageError, PackageError, PackageTooLargeError, UnsafePackageError

READ_BYTES: Final = 256 << 10
_BLOCK: Final = tarfile.BLOCKSIZE
_EXTENDED_MAX: Final = 1 << 20
"""Bytes of an extended header: some paths of 4 KiB, and a file's attributes."""
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,6}) ")
_DECISIVE: Final = ("path", "linkpath", "size")
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
"""Bytes that the error handler `surrogateescape` has kept."""


class Kind(Enum):
    FILE = "a file"
    DIRECTORY = "a directory"
    LINK = "a link"
    HARD_LINK = "a hard link"
    OTHER = "neither a file, nor a directory, nor a link"


_KINDS: Final = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
}
_LONG: Final = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_EXTENDED: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_WITHOUT_CONTENT: Final = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the tar; `target` is the target of a link of either kind."""

    name: str
    kind: Kind
    mode: int
    size: int
    target: str
    problem: tuple[type[PackageError], str] | None = None
    """Reason why no agent may have it: the error to raise, and its text."""


class TarReader:
    """Iterate it once. `chunks` yields the content of the latest entry; unread content is skipped."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._left = 0
        self._padding = 0
        self._is_empty = True

    def __iter__(self) -> Iterator[Entry]:
        extended: dict[str, str] = {}
        entry_pending = False
        while header := self._read_header():
            more: dict[str, str] = {}
            entry_pending = True
            if header.type in _LONG:
                more = {_LONG[header.type]: self._decode(self._read_extended_header(header.size).rstrip(b"\0"))}
            elif header.type in _EXTENDED:
                more = self._read_pax_records(header.size)
            elif header.type == tarfile.XGLTYPE:
                if any(key in _DECISIVE or key.startswith("GNU.sparse") for key in self._read_pax_records(header.size)):
                    raise CorruptPackageError("the tar names or sizes all its files at once, in a global header")
            else:
                yield self._make_entry(header, extended)
                extended, entry_pending = {}, False
                for _ in self.chunks():
                    pass
            # Of two headers some programs believe the first, some the last, and some the one of a kind.
            if extended.keys() & more.keys():
                raise CorruptPackageError(f"the tar gives twice a file's {min(extended.keys() & more.keys())} is")
            extended |= more
        if entry_pending:
            raise CorruptPackageError("the tar ends after an extended header")

    def chunks(self) -> Iterator[memoryview]:
        """Yield the rest of the content; each piece is only valid until the next."""
        while self._left:
            count = self._stream.readinto(self._buffer[: self._left])
            if not count:
                raise CorruptPackageError("the tar ends within a file")
            self._left -= count
            yield self._buffer[:count]
        # After the last file the padding may be missing, with all that follows.
        self._stream.read(self._padding)
        self._padding = 0

    def _read_header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(_BLOCK)
        if len(block) < _BLOCK and (block or self._is_empty):
            raise CorruptPackageError("the tar is cut short")
        self._is_empty = False
        if not block.strip(b"\0"):
            self._check_end()
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise CorruptPackageError(f"the tar is damaged: {error}") from error
        if header.size < 0:
            raise CorruptPackageError(f"{header.name[:80]!r} has a size of {header.size} bytes")
        return header

    def _check_end(self) -> None:
        """Refuse bytes after the end: some programs would read them."""
        while count := self._stream.readinto(self._buffer):
            if self._buffer[:count].tobytes().strip(b"\0"):
                raise CorruptPackageError("the tar has bytes after its end")

    def _make_entry(self, header: tarfile.TarInfo, extended: dict[str, str]) -> Entry:
        name = extended.get("path", header.name)
        size = self._parse_size(extended["size"]) if "size" in extended else header.size
        kind = _KINDS.get(header.type, Kind.OTHER)
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extended):
            # It may have another name and other content than its header says, even outside of the agent.
            raise UnsafePackageError(f"{name[:80]!r} is a sparse file, which programs read in different ways")
        if kind not in (Kind.FILE, Kind.OTHER) and size:
            raise CorruptPackageError(f"{name[:80]!r} is {kind.value} and has {size:,} bytes of content")
        self._left = 0 if header.type in _WITHOUT_CONTENT else size
        self._padding = -self._left % _BLOCK
        target = extended.get("linkpath", header.linkname)
        return Entry(name, kind, header.mode & 0o7777, self._left, target, _find_problem(name, kind, target))

    def _read_pax_records(self, size: int) -> dict[str, str]:
        """Return the records of an extended header (POSIX pax, "pax Extended Header")."""
        data, records, at = self._read_extended_header(size), dict[str, str](), 0
        while at < len(data):
            match = _RECORD.match(data, at)
            end = at + int(match[1]) if match else 0
            key, equals, value = data[match.end() : end - 1].partition(b"=") if match else (b"", b"", b"")
            if not equals or not at < end <= len(data) or data[end - 1] != ord("\n"):
                raise CorruptPackageError("the tar has an extended header that cannot be read")
            name = key.decode("utf-8", "replace")
            if name in _DECISIVE or name.startswith("GNU.sparse"):
                records[name] = self._decode(value)
            at = end
        return records

    def _read_extended_header(self, size: int) -> bytes:
        if size > _EXTENDED_MAX:
            raise PackageTooLargeError(f"the tar has an extended header of {size:,} bytes")
        data = self._read(size + -size % _BLOCK)
        if data[size:].strip(b"\0"):  # which some programs take for a part of it
            raise CorruptPackageError("the tar has an extended header with bytes after its end")
        return data[:size]

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise CorruptPackageError("the tar is cut short")
        return data

    @staticmethod
    def _decode(data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")

    @staticmethod
    def _parse_size(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
            raise CorruptPackageError(f"the tar has a file of {text[:40]!r} bytes")
        return int(text)


def _find_problem(name: str, kind: Kind, target: str) -> tuple[type[PackageError], str] | None:
    if _NOT_UTF8.search(name) or _NOT_UTF8.search(target):
        return UnsafePackageError, "the tar has a name that is not UTF-8"
    if kind is Kind.FILE and name.endswith("/"):  # what was so before POSIX has been decoded as a directory
        return CorruptPackageError, f"{name[:80]!r} is a file by its kind and a directory by its name"
    return None
