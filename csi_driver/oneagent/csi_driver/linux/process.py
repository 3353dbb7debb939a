"""Exclusive locks, dying threads and memory of the driver's processes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.common import logs

log = logging.getLogger(__name__)

_M_ARENA_MAX: Final = -8  # <malloc.h>

HANDOVER_SECONDS: Final = 30.0
"""Seconds a new process waits for the old one on the same data directory to end."""


@contextlib.contextmanager
def exclusive_lock(lock: Path, wait_seconds: float = HANDOVER_SECONDS) -> Iterator[None]:
    """Hold a process's exclusive lock on the data directory; `SystemExit` if another one keeps it."""
    descriptor = _open_lock(lock)
    if descriptor is None:
        log.warning("data directory is read-only and has no lock file, going on without", extra=logs.fields(lock=lock))
        yield
        return
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SystemExit(f"another process holds {lock}: only one may use the data directory") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _open_lock(lock: Path) -> int | None:
    """Open a lock file, created if missing; None if it is missing on a read-only disk. `SystemExit` if it can't."""
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise SystemExit(f"{lock} can't be opened: {error.strerror}") from error
    try:
        # flock(2) needs no right to write.
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def is_locked(lock: Path) -> bool | None:
    """Return whether a process holds its lock (see `exclusive_lock`); None if unknown."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Held for microseconds; a process that starts just then tries again after 100 ms.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def ending_on_thread_errors() -> Iterator[None]:
    """End the process with exit code 1 when a thread dies of an unexpected error: its work would stay undone.

    Kubelet restarts the container. Nothing is cleaned up, as after a crash, which the next start expects.
    """

    def end(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is SystemExit:
            return
        name = arguments.thread.name if arguments.thread is not None else ""
        error = arguments.exc_value or arguments.exc_type()
        log.critical("thread died, process ends", extra=logs.fields(thread=name), exc_info=error)
        logging.shutdown()
        os._exit(1)

    before, threading.excepthook = threading.excepthook, end
    try:
        yield
    finally:
        threading.excepthook = before


def trim_memory() -> None:
    """Release the memory that only loading needed, and freeze the objects that stay."""
    gc.collect()
    gc.freeze()
    release_memory()


def share_heap() -> None:
    """Let all threads use one heap: with one each, what many threads have freed stays with the process."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def release_memory() -> None:
    """Give unused pages of the heap back to the kernel."""
    with contextlib.suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
