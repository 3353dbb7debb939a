"""Preloaded versions: unpacked by `oneagent-csi preload`, put into the store by the provisioner.

    preloaded/.<version>/    being unpacked, locked by the command
    preloaded/<version>/     complete and durable: the tree `agent/` and `manifest.json`
    pins/<version>           time until which it stays without a DynaKube (seconds since the epoch)

The command does not touch the store itself. A version that a DynaKube waits for must not become visible before its
configuration exists, which only the provisioner makes. So the store has one writer, and a command that is killed at
any moment leaves nothing in it. Without a running provisioner the version waits for the next one.

No DynaKube requests a version that is preloaded early, so garbage collection would remove it. Its pin keeps it until
a DynaKube requests it, and after that it is a version like any other, or until the pin expires.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import fsync
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.unpack import AgentPackage, dedup, file_manifest, tree_writer
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import AgentStore, sync_directory

TREE: Final = "agent"
MANIFEST: Final = "manifest.json"


class NotPreloadedError(Exception):
    """The package can't be preloaded; the reason in one line."""


@dataclass(frozen=True, slots=True)
class Preloaded:
    version: Version
    bytes: int
    shared_bytes: int
    """Bytes shared with other versions by hard links."""
    seconds: float


def preload(
    data: DataDir,
    read_package: Callable[[], AgentPackage],
    version: Version,
    keep_seconds: float,
    existing: dedup.ExistingFiles,
    failpoint: Callable[[str], None] = lambda _name: None,
    on_begin: Callable[[int], tree_writer.OnWritten | None] = lambda _bytes: None,
) -> Preloaded:
    """Unpack a package for the provisioner.

    `on_begin` gets the unpacked size, and returns the callback for progress. Raises `NotPreloadedError`,
    `PackageError`, `OSError`, and the errors of `read_package`.
    """
    started = time.perf_counter()
    if AgentStore(data).has(version) or (data.preloaded / version).exists():
        raise NotPreloadedError(f"version {version} is on this node already")
    package = read_package()
    needed, free = package.unpacked_size, download.free_bytes(data.root)
    if needed > free:
        raise NotPreloadedError(f"version {version} takes {needed >> 20} MiB, and {free >> 20} MiB are free")
    scratch = data.preloaded / f".{version}"
    scratch.mkdir(exist_ok=True)
    with _locked(scratch) as is_locked:
        if not is_locked:
            raise NotPreloadedError(f"version {version} is being preloaded by another command")
        try:
            _clear(scratch)
            unpacked = package.unpack(scratch / "package", existing=existing, on_written=on_begin(needed))
            unpacked.root.rename(scratch / TREE)
            shutil.rmtree(scratch / "package", ignore_errors=True)
            failpoint("unpacked")
            unpacked.manifest.dump(scratch / MANIFEST)
            fsync.sync_tree(scratch)
            fsync.replace(data.pin(version), f"{time.time() + keep_seconds:.0f}\n".encode())
            failpoint("pinned")
            scratch.rename(data.preloaded / version)
            sync_directory(data.preloaded)
            failpoint("preloaded")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    seconds = time.perf_counter() - started
    return Preloaded(version, unpacked.unpacked_bytes, existing.shared_bytes, seconds)


def list_waiting(data: DataDir) -> list[Version]:
    """Return the versions that wait for the provisioner."""
    return sorted(Version(entry.name) for entry in os.scandir(data.preloaded) if _is_version(entry.name))


def store_preloaded(
    data: DataDir, version: Version, prepare: Callable[[Version, Path], None], failpoint: Callable[[str], None]
) -> int | None:
    """Put a waiting version into the store; returns its bytes, or None if it was there already.

    The steps are in the order of an install, and can be repeated after each of them.
    """
    preloaded, store = data.preloaded / version, AgentStore(data)
    size = None
    if not store.has(version):
        manifest = file_manifest.Manifest.load(preloaded / MANIFEST)
        manifest.dump(data.manifest(version))
        failpoint("manifest of preload written")
        prepare(version, preloaded / TREE)
        failpoint("prepared")
        store.add(version, preloaded / TREE)
        failpoint("preload in the store")
        size = manifest.unpacked_bytes
    data.discard(preloaded)
    return size


def list_pinned(data: DataDir, requested: Collection[Version], now: float) -> set[Version]:
    """Return the versions whose pin is valid. Removes expired pins, and those of requested versions."""
    pinned = set()
    for pin in data.pins.glob("[!.]*"):
        version = Version(pin.name)
        try:
            until = float(pin.read_text())
        except ValueError:
            until = 0.0
        if version in requested or until <= now:
            pin.unlink(missing_ok=True)
        else:
            pinned.add(version)
    return pinned


def remove_leftovers(data: DataDir) -> None:
    """Remove leftovers of killed commands; a running command holds its lock."""
    for scratch in data.preloaded.glob(".*"):
        with contextlib.suppress(FileNotFoundError), _locked(scratch) as is_locked:
            if is_locked:
                shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[bool]:
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _clear(scratch: Path) -> None:
    for entry in scratch.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_version(name: str) -> bool:
    try:
        return bool(data_dir.component(name, "agent version"))
    except data_dir.UnsafeNameError:
        return False
