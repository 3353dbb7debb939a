"""Versions that somebody carried to this node: unpacked by a person's command, put into the store by the provisioner.

    preloaded/.<version>/    being unpacked, locked by the command that does it
    preloaded/<version>/     complete and durable: the tree `agent/` and `manifest.json`
    pins/<version>           that it is to stay, until when (seconds since the epoch), though nobody wants it yet

The command does not touch the store itself. A version that a DynaKube waits for must not become visible before its
configuration is there, and only the provisioner can make that; so there is one writer of the store, and a command
that is killed at any moment leaves nothing in it. While no provisioner runs the version waits for the next one.

Nobody wants a version that was carried in beforehand, so garbage collection would take it. Its pin keeps it until a
DynaKube wants it, from when on it is a version like any other, or until the pin's time is over.
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
from oneagent.csi_driver.store import AgentStore, sync_folder

TREE: Final = "agent"
MANIFEST: Final = "manifest.json"


class NotPreloadedError(Exception):
    """The package can't be preloaded; one line that says why."""


@dataclass(frozen=True, slots=True)
class Preloaded:
    version: Version
    bytes: int
    shared_bytes: int
    """What other versions have already, so that it was not stored again."""
    seconds: float


def preload(
    folder: DataDir,
    read: Callable[[], AgentPackage],
    version: Version,
    keep_seconds: float,
    present: dedup.ExistingFiles,
    failpoint: Callable[[str], None] = lambda _name: None,
    begun: Callable[[int], tree_writer.OnWritten | None] = lambda _bytes: None,
) -> Preloaded:
    """Unpack a package for the provisioner to take; what `read` raises, `NotPreloadedError`, `PackageError` or `OSError`.

    `begun` is told how many bytes will be there, and gives whom to tell of them as they come.
    """
    started = time.perf_counter()
    if AgentStore(folder).has(version) or (folder.preloaded / version).exists():
        raise NotPreloadedError(f"version {version} is on this node already")
    package = read()
    needed, free = package.unpacked_size, download.free_bytes(folder.root)
    if needed > free:
        raise NotPreloadedError(f"version {version} takes {needed >> 20} MiB, and {free >> 20} MiB are free")
    scratch = folder.preloaded / f".{version}"
    scratch.mkdir(exist_ok=True)
    with _locked(scratch) as alone:
        if not alone:
            raise NotPreloadedError(f"version {version} is being preloaded by another command")
        try:
            _clear(scratch)
            unpacked = package.unpack(scratch / "package", existing=present, on_written=begun(needed))
            unpacked.root.rename(scratch / TREE)
            shutil.rmtree(scratch / "package", ignore_errors=True)
            failpoint("unpacked")
            unpacked.manifest.dump(scratch / MANIFEST)
            fsync.sync_tree(scratch)
            fsync.replace(folder.pin(version), f"{time.time() + keep_seconds:.0f}\n".encode())
            failpoint("pinned")
            scratch.rename(folder.preloaded / version)
            sync_folder(folder.preloaded)
            failpoint("preloaded")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    seconds = time.perf_counter() - started
    return Preloaded(version, unpacked.unpacked_bytes, present.shared_bytes, seconds)


def waiting(folder: DataDir) -> list[Version]:
    """The versions that wait for the provisioner."""
    return sorted(Version(entry.name) for entry in os.scandir(folder.preloaded) if _is_version(entry.name))


def take(
    folder: DataDir, version: Version, prepare: Callable[[Version, Path], None], failpoint: Callable[[str], None]
) -> int | None:
    """Put a version that waits into the store; its bytes, or None if it was there already.

    In the order of an install, and may be begun anew after each step.
    """
    place, store = folder.preloaded / version, AgentStore(folder)
    taken = None
    if not store.has(version):
        manifest = file_manifest.Manifest.load(place / MANIFEST)
        manifest.dump(folder.manifest(version))
        failpoint("preload's manifest written")
        prepare(version, place / TREE)
        failpoint("prepared")
        store.add(version, place / TREE)
        failpoint("preload in the store")
        taken = manifest.unpacked_bytes
    folder.discard(place)
    return taken


def pinned(folder: DataDir, wanted: Collection[Version], now: float) -> set[Version]:
    """The versions that stay though nobody wants them. Pins that have done their work go."""
    found = set()
    for pin in folder.pins.glob("[!.]*"):
        version = Version(pin.name)
        try:
            until = float(pin.read_text())
        except ValueError:
            until = 0.0
        if version in wanted or until <= now:
            pin.unlink(missing_ok=True)
        else:
            found.add(version)
    return found


def tidy(folder: DataDir) -> None:
    """Remove what a command that was killed has left; one that is at work keeps its lock."""
    for scratch in folder.preloaded.glob(".*"):
        with contextlib.suppress(FileNotFoundError), _locked(scratch) as alone:
            if alone:
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
