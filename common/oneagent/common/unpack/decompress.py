"""Decompression of layers: gzip, zstd, or plain.

The first bytes of a layer name its format, which its sender cannot get wrong. gzip is decompressed in a thread of its
own, beside the hashing and writing of what came before. No more than the allowed number of bytes is handed on.
The page cache of the read file is given back on the way.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol, cast

from isal import igzip_threaded, isal_zlib

from oneagent.common import page_cache
from oneagent.common.unpack import CorruptPackageError, PackageFile, PackageTooLargeError, UnsupportedPackageError

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""After a first byte from 0x50 to 0x5f: a frame of zstd that holds something else (RFC 8878 section 3.1.2)."""
_GZIP_BLOCK: Final = 512 << 10
_ZSTD_WINDOW: Final = 32 << 20
"""Memory for decompression; a level above 19 needs more."""
_BUFFER: Final = 64 << 10

_IsalError = cast("type[Exception]", isal_zlib.error)


@dataclass(slots=True)
class Budget:
    """Bytes that all layers of an image may decompress to."""

    max_bytes: int
    spent: int = 0

    def spend(self, count: int) -> None:
        self.spent += count
        if self.spent > self.max_bytes:
            raise PackageTooLargeError(
                f"the layers unpack to more than {self.max_bytes:,} bytes, which their size and the limits allow"
            )


@contextlib.contextmanager
def open_layer(layer: PackageFile, budget: Budget) -> Iterator[io.BufferedIOBase]:
    """Open the content of a layer. Raises `PackageError`, or `OSError` of the disk."""
    with _UncachedFile(layer) as file:
        file.seek(0)
        magic = file.read(4)
        file.seek(0)
        opened: contextlib.AbstractContextManager[_Readable] = contextlib.nullcontext(file)
        if magic.startswith(_GZIP):
            opened = _open_gzip(file)
        elif magic == _ZSTD or magic[1:] == _SKIPPABLE:
            opened = _open_zstd(file)
        with opened as raw, io.BufferedReader(_BudgetedReader(raw, budget), _BUFFER) as stream:
            yield stream


@contextlib.contextmanager
def _open_gzip(file: _UncachedFile) -> Iterator[_Readable]:
    try:
        with igzip_threaded.open(file, "rb", block_size=_GZIP_BLOCK) as stream:  # type: ignore[no-untyped-call]
            yield cast("_Readable", stream)
    except (_IsalError, EOFError, gzip.BadGzipFile) as error:
        raise CorruptPackageError(f"a layer is not whole gzip data: {error}") from error


@contextlib.contextmanager
def _open_zstd(file: _UncachedFile) -> Iterator[_Readable]:
    import zstandard  # some 3 MiB, for images that are packed so

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as stream:
            yield cast("_Readable", stream)
    except zstandard.ZstdError as error:
        if "memory" in str(error):
            window = _ZSTD_WINDOW >> 20
            raise UnsupportedPackageError(
                f"a layer takes more than {window} MiB to unpack: pack it by zstd -19"
            ) from error
        raise CorruptPackageError(f"a layer is not whole zstd data: {error}") from error


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _UncachedFile(io.FileIO):
    """A file whose page cache is dropped while it is read."""

    def __init__(self, layer: PackageFile) -> None:
        super().__init__(os.dup(layer) if isinstance(layer, int) else layer)
        self._dropped = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self._drop()
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # narrower than Buffer
        count = super().readinto(buffer) or 0
        self._drop()
        return count

    def close(self) -> None:
        if not self.closed:
            page_cache.drop_read(self.fileno())
        super().close()

    def _drop(self) -> None:
        here = self.tell()
        if here - self._dropped >= page_cache.WINDOW_BYTES:
            page_cache.drop_read(self.fileno(), self._dropped, here - self._dropped)
            self._dropped = here


class _BudgetedReader(io.RawIOBase):
    """Raises an error after the allowed number of bytes."""

    def __init__(self, inner: _Readable, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what a BufferedReader hands over
        count = self._inner.readinto(buffer) or 0
        self._budget.spend(count)
        return count
