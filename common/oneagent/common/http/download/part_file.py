"""The file of an unfinished download, `<name>.part`, and beside it the state to resume it.

The digest is updated while bytes arrive, so a finished file is never read again. A new process reads the part
once to restore the digest. It trusts a part only if it was written since this machine started: after a power
cut a file may have its full length and not its content.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from oneagent.common import foreign_json, page_cache, typed_json
from oneagent.common.http.download import http_range

_BLOCK: Final = 1024 * 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class _State(msgspec.Struct, frozen=True):
    source: str
    boot: str
    validator: str
    total: int | None


class PartFile:
    """The part of `into`; `source` identifies the file. Closing it keeps it for a later call."""

    def __init__(self, into: Path, source: str) -> None:
        self._into = into
        self._path = into.with_name(into.name + ".part")
        self._state_path = into.with_name(into.name + ".part.json")
        self._source = hashlib.sha256(source.encode()).hexdigest()  # a URL may hold what should not lie about
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", _BLOCK)
        self._hash = hashlib.sha256()
        self._flushed, self._cache = 0, page_cache.WriteTracker(self._file.fileno())
        self.received = http_range.Received()
        try:
            self._resume()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk, bytes that were not written cannot be written at closing either.
        try:
            self._file.close()
        except OSError:
            if error is None:
                raise

    @property
    def complete(self) -> bool:
        return self.received.total is not None and self.received.size == self.received.total

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._hash.hexdigest()

    def start(self, received: http_range.Received) -> None:
        """Continue behind `received`, or empty the file if that is nothing."""
        if received.size == 0:
            self._truncate()
        self.received = received
        # Written in place: a torn file does not parse, and the download starts from zero.
        self._state_path.write_bytes(
            msgspec.json.encode(_State(self._source, _boot_id(), received.validator, received.total))
        )

    def write(self, chunk: bytes) -> bool:
        """Append bytes; True if a window of them has just been sent to the disk."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.received = http_range.Received(
            self.received.size + len(chunk), self.received.total, self.received.validator
        )
        if self.received.size - self._flushed < page_cache.WINDOW_BYTES:
            return False
        self._file.flush()
        self._flushed = self.received.size
        return self._cache.advance_to(self.received.size)

    def reset(self) -> None:
        """Drop all bytes: the next response starts from zero."""
        self._state_path.unlink(missing_ok=True)
        self._truncate()
        self.received = http_range.Received()

    def finish(self) -> None:
        """Write the rest and give the file its name."""
        self._file.flush()
        self._cache.finish(self.received.size)
        self._path.rename(self._into)
        self._state_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the part and its state."""
        self._state_path.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _truncate(self) -> None:
        self._file.seek(0)
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self._track(0)

    def _track(self, size: int) -> None:
        self._flushed, self._cache = size, page_cache.WriteTracker(self._file.fileno(), size)

    def _resume(self) -> None:
        """Restore the state that an earlier process left, if it can be trusted."""
        size = self._path.stat().st_size
        try:
            state = foreign_json.decode(self._state_path.read_bytes(), _State)
        except (FileNotFoundError, foreign_json.DocumentError):
            state = _State("", "", "", None)
        is_temporary = state.source == self._source and state.boot == _boot_id()
        if not (is_temporary and size and state.validator and size <= (state.total or size)):
            self._truncate()
            return
        while block := self._file.read(_BLOCK):
            self._hash.update(block)
        page_cache.drop_read(self._file.fileno())
        self._file.seek(size)
        self.received = http_range.Received(size, state.total, state.validator)
        self._track(size)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


typed_json.prepare(_State)
