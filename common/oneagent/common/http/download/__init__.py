"""Downloads a file: streamed, hashed while it arrives, resumed where it broke, in bounded memory.

A call makes a bounded number of attempts. Received bytes stay for the next call, of this process or another one.
If the disk fills up, a download removes its own files. A package that is on the node already is not copied: it
is hashed and used where it is. The errors are the tree in `transfer`, re-exported here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import page_cache
from oneagent.common.http import client as http_client
from oneagent.common.http import exchange
from oneagent.common.http.download import part_file
from oneagent.common.http.download.transfer import (
    ContentMismatchError,
    DiskFailedError,
    DiskFullError,
    DownloadCancelledError,
    DownloadError,
    DownloadLimits,
    DownloadSourceError,
    Expected,
    HttpSource,
    Transfer,
    UnusableFileError,
)

__all__ = [
    "DEFAULT_LIMITS",
    "ContentMismatchError",
    "DiskFailedError",
    "DiskFullError",
    "DownloadCancelledError",
    "DownloadError",
    "DownloadLimits",
    "DownloadSourceError",
    "Downloaded",
    "HttpSource",
    "LocalFile",
    "Source",
    "UnusableFileError",
    "download",
    "free_bytes",
    "parse_source",
]

_BLOCK: Final = 1024 * 1024

DEFAULT_LIMITS: Final = DownloadLimits()
"""Limits of a call that names none."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this node. It is hashed and used where it is."""

    path: Path


Source = HttpSource | LocalFile


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A complete file."""

    path: Path
    size: int
    sha256: str
    is_temporary: bool
    """False for a file that must not be deleted after use."""
    seconds: float
    resumed_at: int = 0
    """Bytes from an earlier call."""


def parse_source(url: str, http: http_client.HttpSettings | None = None) -> Source:
    """Return the source of a configured URL: `https:`, `http:` or `file:`."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return HttpSource(url, http=http or http_client.HttpSettings())
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return LocalFile(Path(urllib.parse.unquote(parts.path)))
    raise UnusableFileError(f"{parts.scheme or 'no scheme'}: https://…, http://… or file:///… is needed")


def free_bytes(directory: Path) -> int:
    """Return the bytes that are available on the file system of `directory`."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def ignore_progress(_received: int, _total: int | None) -> None:
    """Drop progress reports."""


def download(
    source: Source,
    into: Path,
    *,
    cancelled: threading.Event,
    expected_size: int | None = None,
    expected_sha256: str = "",
    limits: DownloadLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int | None], None] = ignore_progress,
    free: Callable[[Path], int] = free_bytes,
    sleep: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Downloaded:
    """Download `source` to `into`, whose directory exists; a local file stays where it is.

    `progress` receives the bytes so far and the total, if known, some times a second at most on a fast line.
    Only one call at a time may have the same `into`. Without `sleep`, cancelling ends a pause at once.
    """
    if expected_sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", expected_sha256):
        raise ValueError("expected_sha256: 64 hex digits are needed")
    expected = Expected(expected_size, expected_sha256.lower())
    started = clock()
    if isinstance(source, LocalFile):
        size, sha256 = _hash_local_file(source.path, cancelled, progress)
        expected.check(size, sha256, str(source.path))
        return Downloaded(source.path, size, sha256, is_temporary=False, seconds=clock() - started)
    with contextlib.ExitStack() as stack, _map_disk_errors(into), exchange.cancel_scope(cancelled):
        http = stack.enter_context(http_client.create(source.http))
        part = stack.enter_context(part_file.PartFile(into, source.content_id or source.url))
        resumed_at = part.received.size
        call = Transfer(source, http, part, expected, limits, into.parent, cancelled, progress, free)
        try:
            call.run(sleep or cancelled.wait)
        except (DiskFullError, ContentMismatchError):
            part.discard()
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.discard()
            raise
        part.finish()
        return Downloaded(into, part.received.size, part.sha256, True, clock() - started, resumed_at)


@contextlib.contextmanager
def _map_disk_errors(into: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"{into.parent}: the disk is full", needed=0) from error
        raise DiskFailedError(f"{error.filename or into}: {error.strerror}") from error


def _hash_local_file(
    path: Path, cancelled: threading.Event, progress: Callable[[int, int | None], None]
) -> tuple[int, str]:
    """Return size and SHA-256 of a local package."""
    digest, done = hashlib.sha256(), 0
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFileError(f"{path}: not a regular file")
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                progress(done, status.st_size)
                if cancelled.is_set():
                    raise DownloadCancelledError(f"{path}: stopped after {done} bytes")
            page_cache.drop_read(file.fileno())
    except OSError as error:
        raise UnusableFileError(f"{path}: {error.strerror}") from error
    return done, digest.hexdigest()
