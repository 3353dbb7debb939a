"""Reads an untrusted zip, and checks all of it before its first byte is used.

The standard library's `zipfile` reads the central directory; the rest is our own code, because `zipfile` follows
whichever of a zip's two descriptions of a member it meets, cuts names at a NUL, and inflates slowly.
Here both descriptions must agree, the members' data may not overlap (the bombs of Fifield's "A better
zip bomb" share one kernel of data among all members) and must lie before the central directory.

Members are inflated by ISA-L in pieces of at most 1 MiB. Measured, that is as fast as whole members in
one call, and it bounds memory for every member alike. The declared size is enforced: an
output of one byte more ends it.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from types import TracebackType
from typing import Final, cast

import msgspec
from isal import igzip_lib, isal_zlib

from oneagent.common import page_cache, unpack
from oneagent.common.unpack import (
    CorruptPackageError,
    PackageTooLargeError,
    UnsafePackageError,
    UnsupportedPackageError,
    entry_index,
)
from oneagent.common.unpack.entry_index import EntryIndex

READ_BYTES: Final = 512 << 10
"""Size of the buffer that a caller of `chunks` supplies."""
_PIECE: Final = 1 << 20
_LINK_MAX: Final = 4095
_DIRECTORY_BYTES: Final = 512
"""Bytes of the central directory for each allowed entry: 46, a path, and some extra fields."""

# APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.16 and 4.4.4.
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_END: Final = struct.Struct("<4s4H2LH")
_END_SIGNATURE: Final = b"PK\x05\x06"
_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000
_PATCHED: Final = 0x0020
_SIZES_FOLLOW: Final = 0x0008
_UTF8: Final = 0x0800
_IN_ZIP64: Final = 0xFFFFFFFF
_UNIX: Final = (3, 19)

_IsalError = cast("type[Exception]", igzip_lib.IsalError)  # its stub declares an instance


class Member(msgspec.Struct, frozen=True, gc=False):
    """A file of the zip, and the position of its data."""

    path: str
    mode: int
    size: int
    crc: int
    deflated: bool
    offset: int
    packed: int


class ZipReader:
    """An open zip whose entry index has been checked; `chunks` may be called from several threads."""

    def __init__(self, archive: unpack.PackageFile, limits: unpack.UnpackLimits) -> None:
        self._file = _BoundedFile(archive, limits)
        try:
            self._fd = self._file.fileno()
            self._bytes = os.fstat(self._fd).st_size
            self.index = EntryIndex(limits, self._bytes)
            self.members: list[Member] = []
            self._read_directory()
            self.index.check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ZipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        page_cache.drop_read(self._fd, 0, 0)
        self._file.close()

    def chunks(self, member: Member, buffer: bytearray) -> Iterator[bytes | memoryview]:
        """The member's content; each piece is only valid until the next. Ends in an error unless the size
        and the checksum are the declared ones. `buffer` (of `READ_BYTES` bytes) is the calling thread's own."""
        pieces = self._inflate(member, buffer) if member.deflated else self._read_packed(member, buffer)
        size = crc = 0
        for piece in pieces:
            size += len(piece)
            if size > member.size:
                raise CorruptPackageError(f"{member.path!r} unpacks to more than the {member.size:,} bytes it declares")
            crc = isal_zlib.crc32(piece, crc)
            yield piece
        if size != member.size:
            raise CorruptPackageError(f"{member.path!r} unpacks to {size:,} of the {member.size:,} bytes it declares")
        if crc != member.crc:
            raise CorruptPackageError(f"{member.path!r} does not have the checksum that the zip declares")

    def _inflate(self, member: Member, buffer: bytearray) -> Iterator[bytes]:
        inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
        packed = self._read_packed(member, buffer)
        left = member.size
        while not inflater.eof:
            data = next(packed, b"") if inflater.needs_input else b""
            try:
                piece = inflater.decompress(data, min(_PIECE, left + 1))
            except _IsalError as error:
                raise CorruptPackageError(f"{member.path!r} is not deflated data: {error}") from error
            if not piece and not data and not inflater.eof:
                raise CorruptPackageError(f"{member.path!r} ends in the middle of its deflated data")
            left = max(0, left - len(piece))
            yield piece
        if inflater.unused_data or next(packed, b""):
            raise CorruptPackageError(f"{member.path!r} has bytes after the end of its deflated data")

    def _read_packed(self, member: Member, buffer: bytearray) -> Iterator[memoryview]:
        view = memoryview(buffer)
        offset, end, dropped = member.offset, member.offset + member.packed, member.offset
        while offset < end:
            count = os.preadv(self._fd, [view[: end - offset]], offset)
            if not count:
                raise CorruptPackageError(f"the zip ends within {member.path!r}")
            offset += count
            yield view[:count]
            if offset - dropped >= page_cache.WINDOW_BYTES:
                page_cache.drop_read(self._fd, dropped, offset - dropped)
                dropped = offset

    def _read_directory(self) -> None:
        try:
            with zipfile.ZipFile(self._file) as directory:
                entries, start, comment = directory.infolist(), directory.start_dir, directory.comment
        # Errors that zipfile raises on damaged input, beside its own: bad UTF-8 (ValueError), cut
        # structures, sizes beyond any file (OSError from seek), versions it does not know.
        except (zipfile.BadZipFile, ValueError, struct.error, IndexError, OverflowError, OSError) as error:
            raise CorruptPackageError(f"not a readable zip: {error}") from error
        except NotImplementedError as error:
            raise UnsupportedPackageError(f"this zip cannot be read: {error}") from error
        self._check_end(len(entries), len(comment))
        entries.sort(key=lambda entry: entry.header_offset)
        free = 0
        for entry in entries:
            if entry.header_offset < free:
                raise UnsafePackageError(f"{entry.filename!r} shares its data with another entry")
            free = self._add(entry)
            if free > start:
                raise CorruptPackageError(f"the data of {entry.filename!r} reaches into the central directory")

    def _check_end(self, entries: int, comment: int) -> None:
        """The end record is the file's last thing and counts what was read."""
        record = os.pread(self._fd, _END.size, max(0, self._bytes - _END.size - comment))
        if len(record) < _END.size or not record.startswith(_END_SIGNATURE):
            raise CorruptPackageError("the zip has bytes after its end record")
        counted = _END.unpack(record)[4]
        if counted not in (entries, 0xFFFF):
            raise CorruptPackageError(f"the zip lists {entries:,} of the {counted:,} entries it counts")

    def _add(self, entry: zipfile.ZipInfo) -> int:
        """Put an entry into the index; returns where its data ends."""
        name = entry.orig_filename
        path = entry_index.clean_path(name)
        mode = entry.external_attr >> 16 if entry.create_system in _UNIX else 0
        kind = stat.S_IFMT(mode)
        offset = self._data_offset(entry)
        member = Member(
            path=path,
            mode=stat.S_IMODE(mode) if mode else 0o644,
            size=entry.file_size,
            crc=entry.CRC,
            deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
            offset=offset,
            packed=entry.compress_size,
        )
        if name.endswith("/"):
            if kind not in (0, stat.S_IFDIR) or entry.file_size:
                raise UnsafePackageError(f"{name!r} is a directory by its name, but not by its mode or size")
            self.index.add_directory(path)
        elif kind in (0, stat.S_IFREG):
            self.index.add_file(path, entry.file_size)
            self.members.append(member)
        elif kind == stat.S_IFLNK:
            self.index.add_link(path, self._link_target(member))
        else:
            raise UnsafePackageError(f"{name!r} is neither a file, nor a directory, nor a link (mode {mode:o})")
        return offset + entry.compress_size

    def _link_target(self, member: Member) -> str:
        if member.size > _LINK_MAX:
            raise UnsafePackageError(f"{member.path!r} links to a path of {member.size:,} bytes")
        try:
            return b"".join(map(bytes, self.chunks(member, bytearray(READ_BYTES)))).decode()
        except UnicodeDecodeError as error:
            raise UnsafePackageError(f"{member.path!r} links to a path that is not UTF-8") from error

    def _data_offset(self, entry: zipfile.ZipInfo) -> int:
        """Where the member's data starts, once its local header says the same as the central directory."""
        name = entry.orig_filename
        if entry.flag_bits & _ENCRYPTED:
            raise UnsupportedPackageError(f"{name!r} is encrypted")
        if entry.flag_bits & _PATCHED or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise UnsupportedPackageError(
                f"{name!r} is compressed by method {entry.compress_type}: only deflate is read"
            )
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise CorruptPackageError(f"{name!r} is stored with two different sizes")
        # Both codecs turn the name back into just the bytes that zipfile has read.
        raw = name.encode("utf-8" if entry.flag_bits & _UTF8 or name.isascii() else "cp437")
        header = os.pread(self._fd, _LOCAL.size + len(raw), max(0, entry.header_offset))
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_SIGNATURE):
            raise CorruptPackageError(f"{name!r} has no header in front of its data")
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(header)
        decisive = _ENCRYPTED | _SIZES_FOLLOW | (0 if name.isascii() else _UTF8)
        same = method == entry.compress_type and not (flags ^ entry.flag_bits) & decisive
        if header[_LOCAL.size :] != raw or name_length != len(raw):
            raise CorruptPackageError(f"{name!r} has another name in front of its data")
        if same and not flags & _SIZES_FOLLOW:
            same = (
                crc == entry.CRC and packed in (entry.compress_size, _IN_ZIP64) and size in (entry.file_size, _IN_ZIP64)
            )
        if not same:
            raise CorruptPackageError(f"{name!r} is described differently in front of its data")
        return entry.header_offset + _LOCAL.size + len(raw) + int(extra_length)


class _BoundedFile(io.FileIO):
    """The file as `zipfile` reads it. The central directory comes in one `read` of a size that the archive
    names, and each entry of it costs memory, so both are bounded here, before `zipfile` parses anything."""

    def __init__(self, archive: unpack.PackageFile, limits: unpack.UnpackLimits) -> None:
        super().__init__(os.dup(archive) if isinstance(archive, int) else os.fspath(archive))
        self._limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._limits.entries * _DIRECTORY_BYTES:
            raise PackageTooLargeError(f"the zip's directory claims {size:,} bytes")
        data = super().read(-1 if size is None else size) or b""
        if data.count(_CENTRAL_SIGNATURE) > self._limits.entries:
            raise PackageTooLargeError(f"the package has more than {self._limits.entries:,} entries")
        return data


def unpacked_size(archive: unpack.PackageFile, limits: unpack.UnpackLimits | None = None) -> int:
    """Return the bytes that the package takes on a disk, for the free-space check."""
    try:
        with ZipReader(archive, limits or unpack.UnpackLimits()) as opened:
            return opened.index.disk_bytes
    except OSError as error:
        what = f"{unpack.describe_file(archive)} cannot be read"
        raise unpack.UnpackFailedError.from_os_error(what, error) from error
