"""Packages on the disk: each whole and verified, all together within a budget.

`<key>.zip` is a package and `<key>.json` what is known of it; the second one appears last, so a package without
it is a leftover. The parts of downloads lie next to them and count as well. A key is a hash that we make: nothing
of a request becomes the name of a file.

What was wanted least recently goes first when room is needed, and never what is being sent: its bytes would stay
on the disk until the last reader is done, and room would only seem to be made.

The folder is one process's: a lock says so. A package that an earlier process left is hashed before it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from oneagent.common import logs
from oneagent.common.http import download
from oneagent.operator.package_server.errors import NoRoomError
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"([0-9a-f]{16}-[0-9a-f]{16})\.(zip|json)")
_PARTS: Final = (".zip.part", ".zip.part.json")
_PARTS_KEPT_SECONDS: Final = 86400.0


class ShelfError(Exception):
    """The folder can't be used; the text says why."""


class _Record(msgspec.Struct, frozen=True):
    sha256: str
    size: int


@dataclass(slots=True)
class Stored:
    """A package that is whole."""

    key: str
    path: Path
    sha256: str
    size: int
    wanted_at: float
    proven: bool = True
    readers: int = 0


@dataclass(slots=True)
class _Arriving:
    total: int = 0


def key(*, what: tuple[str, ...], kind: tuple[str, ...]) -> str:
    """The name of a package: `what` is a version of a tenant, `kind` one of its variants."""
    return f"{group(what)}-{_digest(kind)}"


def group(what: tuple[str, ...]) -> str:
    """What the keys of all kinds of a version begin with."""
    return _digest(what)


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


class PackageCache:
    """Thread-safe. `open` before use; after `close` another process may have the folder."""

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        metrics: PackageMetrics,
        *,
        disk_free: Callable[[Path], int] = download.free_bytes,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._budget = budget_bytes
        self._metrics = metrics
        self._disk_free = disk_free
        self._now = now
        self._guard = threading.RLock()
        self._stored: dict[str, Stored] = {}
        self._arriving: dict[str, _Arriving] = {}
        self._wanted: frozenset[str] = frozenset()
        self._lock = -1

    def open(self) -> None:
        """Take up what an earlier process left; `ShelfError` if the folder can't be used."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ShelfError(
                f"{self.folder}: another process uses it; each replica needs a folder of its own"
            ) from None
        except OSError as error:
            self.close()
            raise ShelfError(f"{error.filename or self.folder}: {error.strerror}") from error
        with self._guard:
            for path in sorted(self.folder.iterdir()):
                self._take_up(path)
            self._count()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_up(self, path: Path) -> None:
        if path.name == "lock" or (path.name.endswith(".json") and path.with_suffix(".zip").exists()):
            return
        if path.name.endswith(_PARTS) and time.time() - path.lstat().st_mtime < _PARTS_KEPT_SECONDS:
            return
        found = _NAME.fullmatch(path.name)
        try:
            if found is None or found[2] != "zip" or path.is_symlink():
                raise ValueError(path.name)
            record = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Record)
            if path.stat().st_size != record.size:
                raise ValueError(path.name)
        except (OSError, ValueError, msgspec.DecodeError):
            with contextlib.suppress(OSError):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
            return
        self._stored[found[1]] = Stored(found[1], path, record.sha256, record.size, path.stat().st_mtime, proven=False)

    # ------------------------------------------------------------------ finding

    def want(self, groups: frozenset[str]) -> None:
        """These versions are wanted; what is in use, or was wanted up to now, is younger than what was not."""
        with self._guard:
            for stored in self._stored.values():
                if stored.key.partition("-")[0] in groups | self._wanted:
                    self._touch(stored)
            self._wanted = groups

    def kinds(self, of: str) -> set[str]:
        """The keys of a version's kinds that are here or on their way."""
        with self._guard:
            return {name for name in (*self._stored, *self._arriving) if name.startswith(f"{of}-")}

    def hold(self, name: str) -> Stored | None:
        """A package that does not go until it is released, if it is here. May hash it first, so not for a loop."""
        with self._guard:
            stored = self._stored.get(name)
            if stored is None:
                return None
            stored.readers += 1
            self._touch(stored)
        if self._proven(stored):
            return stored
        self.release(stored)
        return None

    def release(self, stored: Stored) -> None:
        with self._guard:
            stored.readers -= 1

    def _proven(self, stored: Stored) -> bool:
        try:
            if stored.path.stat().st_size == stored.size and stored.proven:
                return True
            with stored.path.open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == stored.sha256
        except OSError:
            intact = False
        if intact:
            stored.proven = True
            return True
        log.warning("a kept package is damaged and fetched anew", extra=logs.facts(package=stored.key))
        with self._guard:
            if self._stored.get(stored.key) is stored:
                self._remove(stored)
        return False

    def _touch(self, stored: Stored) -> None:
        stored.wanted_at = self._now()
        with contextlib.suppress(OSError):
            os.utime(stored.path, (stored.wanted_at, stored.wanted_at))

    # ------------------------------------------------------------------ arriving

    @contextlib.contextmanager
    def arriving(self, name: str) -> Iterator[Path]:
        """The path to bring a package to; what is still missing of it counts as used meanwhile."""
        with self._guard:
            self._arriving[name] = _Arriving()
        try:
            yield self.folder / f"{name}.zip"
        finally:
            with self._guard:
                self._arriving.pop(name, None)

    def expect(self, name: str, total: int | None) -> None:
        """An arriving package will have this size."""
        with self._guard:
            self._arriving[name].total = total or 0

    def add(self, name: str, size: int, sha256: str) -> Stored:
        """An arrived package is whole and verified: from now on it can be had."""
        path = self.folder / f"{name}.zip"
        fresh = path.with_suffix(".json.new")
        fresh.write_bytes(msgspec.json.encode(_Record(sha256, size)))
        fresh.rename(path.with_suffix(".json"))
        with self._guard:
            self._arriving.pop(name, None)
            stored = self._stored[name] = Stored(name, path, sha256, size, self._now())
            self._count()
            return stored

    def free(self, name: str) -> int:
        """Bytes that an arriving package may take beyond those it has."""
        with self._guard:
            used = sum(stored.size for stored in self._stored.values() if stored.key != name)
            for other, arriving in self._arriving.items():
                used += self._part(other) if other == name else max(arriving.total, self._part(other))
        return min(self._disk_free(self.folder), self._budget - used)

    def make_room(self, needed: int, name: str) -> None:
        """Let packages go until `needed` bytes fit for an arriving one; `NoRoomError`, and none goes, if they can't."""
        with self._guard:
            self._drop_stale_parts()
            missing = needed - self.free(name)
            going: list[Stored] = []
            for stored in sorted(self._stored.values(), key=self._age):
                if missing <= 0:
                    break
                if not stored.readers and stored.key != name:
                    going.append(stored)
                    missing -= stored.size
            if missing > 0:
                raise NoRoomError(
                    f"the package takes {needed} bytes, {missing} more than the budget of {self._budget} and the disk"
                    " have left besides what is in use",
                    retry_after=30,
                )
            for stored in going:
                self._remove(stored)
                self._metrics.evictions.inc()
                log.info("package removed for another one", extra=logs.facts(package=stored.key, bytes=stored.size))
            self._count()

    def _age(self, stored: Stored) -> tuple[bool, float]:
        return stored.key.partition("-")[0] in self._wanted, stored.wanted_at

    def _part(self, name: str) -> int:
        for suffix in (".zip.part", ".zip"):
            with contextlib.suppress(OSError):
                return (self.folder / f"{name}{suffix}").stat().st_size
        return 0

    def _drop_stale_parts(self) -> None:
        """Parts that nobody adds to were kept for a resumption that has not come."""
        for path in self.folder.glob("*.zip.part*"):
            if path.name.partition(".")[0] not in self._arriving:
                path.unlink(missing_ok=True)

    def _remove(self, stored: Stored) -> None:
        del self._stored[stored.key]
        stored.path.with_suffix(".json").unlink(missing_ok=True)
        stored.path.unlink(missing_ok=True)

    def _count(self) -> None:
        self._metrics.stored_bytes.set(sum(stored.size for stored in self._stored.values()))
