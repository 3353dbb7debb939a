"""Cache of verified packages on disk, within a budget.

`<key>.zip` is a package and `<key>.json` its metadata. The metadata is written last, so a package without it is an
incomplete one. Partial downloads are in the same directory and count as well. A key is a hash: no part of a request
becomes a file name.

The least recently requested package is evicted first. A pinned one is never evicted: its bytes would stay on disk
until the last reader is done.

A lock reserves the directory for one process. A package of an earlier process is hashed before its first use.
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

from oneagent.common import logs, typed_json
from oneagent.common.http import download
from oneagent.operator.package_server.errors import NoRoomError
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"([0-9a-f]{16}-[0-9a-f]{16})\.(zip|json)")
_PARTS: Final = (".zip.part", ".zip.part.json")
_PART_MAX_AGE_SECONDS: Final = 86400.0


class CacheError(Exception):
    """The directory cannot be used; the text is the reason."""


class _Record(msgspec.Struct, frozen=True):
    sha256: str
    size: int


@dataclass(slots=True)
class CachedPackage:
    """A complete package."""

    key: str
    path: Path
    sha256: str
    size: int
    requested_at: float
    verified: bool = True
    pins: int = 0


@dataclass(slots=True)
class _Incoming:
    total: int = 0


def key(*, version: tuple[str, ...], variant: tuple[str, ...]) -> str:
    """Return the name of a package: of a tenant's version, and of one of its variants."""
    return f"{group(version)}-{_digest(variant)}"


def group(version: tuple[str, ...]) -> str:
    """Return the prefix of the keys of all variants of a version."""
    return _digest(version)


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


class PackageCache:
    """Thread-safe. `open` locks the directory, `close` releases it."""

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        metrics: PackageMetrics,
        *,
        disk_free: Callable[[Path], int] = download.free_bytes,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._budget = budget_bytes
        self._metrics = metrics
        self._disk_free = disk_free
        self._now = now
        self._mutex = threading.RLock()
        self._stored: dict[str, CachedPackage] = {}
        self._incoming: dict[str, _Incoming] = {}
        self._desired: frozenset[str] = frozenset()
        self._lock = -1

    def open(self) -> None:
        """Lock the directory and adopt the packages of an earlier process; `CacheError`."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CacheError(
                f"{self.directory}: another process uses it; each replica needs a directory of its own"
            ) from None
        except OSError as error:
            self.close()
            raise CacheError(f"{error.filename or self.directory}: {error.strerror}") from error
        with self._mutex:
            for path in sorted(self.directory.iterdir()):
                self._adopt(path)
            self._update_metrics()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _adopt(self, path: Path) -> None:
        if path.name == "lock" or (path.name.endswith(".json") and path.with_suffix(".zip").exists()):
            return
        if path.name.endswith(_PARTS) and time.time() - path.lstat().st_mtime < _PART_MAX_AGE_SECONDS:
            return
        found = _NAME.fullmatch(path.name)
        try:
            if found is None or found[2] != "zip" or path.is_symlink():
                raise ValueError(path.name)
            record = typed_json.decode(path.with_suffix(".json").read_bytes(), _Record)
            if path.stat().st_size != record.size:
                raise ValueError(path.name)
        except (OSError, ValueError, msgspec.DecodeError):
            with contextlib.suppress(OSError):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
            return
        self._stored[found[1]] = CachedPackage(
            found[1], path, record.sha256, record.size, path.stat().st_mtime, verified=False
        )

    # ------------------------------------------------------------------ lookup

    def set_desired(self, groups: frozenset[str]) -> None:
        """Replace the desired versions; packages that were or are desired count as just requested."""
        with self._mutex:
            for stored in self._stored.values():
                if stored.key.partition("-")[0] in groups | self._desired:
                    self._touch(stored)
            self._desired = groups

    def variants(self, group: str) -> set[str]:
        """Return the keys of a version's packages that are cached or being downloaded."""
        with self._mutex:
            return {name for name in (*self._stored, *self._incoming) if name.startswith(f"{group}-")}

    def pin(self, name: str) -> CachedPackage | None:
        """Return a package and keep it until `unpin`; None if not cached. May hash it: call it in a thread."""
        with self._mutex:
            stored = self._stored.get(name)
            if stored is None:
                return None
            stored.pins += 1
            self._touch(stored)
        if self._verify(stored):
            return stored
        self.unpin(stored)
        return None

    def unpin(self, stored: CachedPackage) -> None:
        with self._mutex:
            stored.pins -= 1

    def _verify(self, stored: CachedPackage) -> bool:
        try:
            if stored.path.stat().st_size == stored.size and stored.verified:
                return True
            with stored.path.open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == stored.sha256
        except OSError:
            intact = False
        if intact:
            stored.verified = True
            return True
        log.warning("cached package corrupt, removed", extra=logs.fields(package=stored.key))
        with self._mutex:
            if self._stored.get(stored.key) is stored:
                self._remove(stored)
        return False

    def _touch(self, stored: CachedPackage) -> None:
        stored.requested_at = self._now()
        with contextlib.suppress(OSError):
            os.utime(stored.path, (stored.requested_at, stored.requested_at))

    # ------------------------------------------------------------------ downloads

    @contextlib.contextmanager
    def incoming(self, name: str) -> Iterator[Path]:
        """Yield the path for a download; its reserved size counts as used meanwhile."""
        with self._mutex:
            self._incoming[name] = _Incoming()
        try:
            yield self.directory / f"{name}.zip"
        finally:
            with self._mutex:
                self._incoming.pop(name, None)

    def reserve(self, name: str, total: int | None) -> None:
        """Set the size of an incoming package."""
        with self._mutex:
            self._incoming[name].total = total or 0

    def add(self, name: str, size: int, sha256: str) -> CachedPackage:
        """Add a complete and verified package."""
        path = self.directory / f"{name}.zip"
        new_record = path.with_suffix(".json.new")
        new_record.write_bytes(msgspec.json.encode(_Record(sha256, size)))
        new_record.rename(path.with_suffix(".json"))
        with self._mutex:
            self._incoming.pop(name, None)
            stored = self._stored[name] = CachedPackage(name, path, sha256, size, self._now())
            self._update_metrics()
            return stored

    def free_bytes(self, name: str) -> int:
        """Return the bytes that an incoming package may take in addition to those it has."""
        with self._mutex:
            used = sum(stored.size for stored in self._stored.values() if stored.key != name)
            for other, incoming in self._incoming.items():
                used += self._size_on_disk(other) if other == name else max(incoming.total, self._size_on_disk(other))
        return min(self._disk_free(self.directory), self._budget - used)

    def make_room(self, needed: int, name: str) -> None:
        """Evict packages until `needed` bytes fit; `NoRoomError`, without an eviction, if they cannot."""
        with self._mutex:
            self._drop_stale_parts()
            missing = needed - self.free_bytes(name)
            victims: list[CachedPackage] = []
            for stored in sorted(self._stored.values(), key=self._eviction_key):
                if missing <= 0:
                    break
                if not stored.pins and stored.key != name:
                    victims.append(stored)
                    missing -= stored.size
            if missing > 0:
                raise NoRoomError(
                    f"the package needs {needed} bytes, {missing} more than the budget of {self._budget} bytes and the "
                    "disk have free; packages in use stay",
                    retry_after=30,
                )
            for stored in victims:
                self._remove(stored)
                self._metrics.evictions.inc()
                log.info("package evicted", extra=logs.fields(package=stored.key, bytes=stored.size))
            self._update_metrics()

    def _eviction_key(self, stored: CachedPackage) -> tuple[bool, float]:
        return stored.key.partition("-")[0] in self._desired, stored.requested_at

    def _size_on_disk(self, name: str) -> int:
        for suffix in (".zip.part", ".zip"):
            with contextlib.suppress(OSError):
                return (self.directory / f"{name}{suffix}").stat().st_size
        return 0

    def _drop_stale_parts(self) -> None:
        """Delete partial downloads that no running download resumes."""
        for path in self.directory.glob("*.zip.part*"):
            if path.name.partition(".")[0] not in self._incoming:
                path.unlink(missing_ok=True)

    def _remove(self, stored: CachedPackage) -> None:
        del self._stored[stored.key]
        stored.path.with_suffix(".json").unlink(missing_ok=True)
        stored.path.unlink(missing_ok=True)

    def _update_metrics(self) -> None:
        self._metrics.stored_bytes.set(sum(stored.size for stored in self._stored.values()))


typed_json.prepare(_Record)
