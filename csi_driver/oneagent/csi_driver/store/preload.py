"""Preloaded versions: unpacked by `oneagent-csi preload`, put into the store by the provisioner.

    preloaded/.<name>/     being unpacked, locked by the command
    preloaded/<name>/      complete and durable: the tree `agent/`, `manifest.json`, and `package.json` with its origin
    pins/<key>             time until which it stays without a DynaKube (seconds since the epoch)

The command does not touch the store itself. A version that a DynaKube waits for must not become visible before its
configuration exists, which only the provisioner makes. So the store has one writer, and a command that is killed at
any moment leaves nothing in it. Without a running provisioner the version waits for the next one.

The store's key of an image is its digest. That of a zip depends on the source of the DynaKube that it is for, so it
waits until that DynaKube exists, too.

No DynaKube requests a version that is preloaded early, so garbage collection would remove it. Its pin keeps it until
a DynaKube requests it, and after that it is a version like any other, or until the pin expires.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from oneagent.common import agents, fsync, logs, typed_json
from oneagent.common.http import download
from oneagent.common.identifiers import StoreKey, Version
from oneagent.common.unpack import AgentPackage, dedup, early_files, file_manifest, tree_writer
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import tree_walker
from oneagent.csi_driver.store import AgentStore, store_key, sync_directory

log = logging.getLogger(__name__)

TREE: Final = "agent"
MANIFEST: Final = "manifest.json"
ORIGIN: Final = "package.json"


class NotPreloadedError(Exception):
    """The package can't be preloaded; the reason in one line."""


class PreloadOrigin(msgspec.Struct, frozen=True):
    """What a preloaded package is: an image, or a zip with the version that its DynaKube's source has."""

    image: str = ""
    """Digest of an image, `sha256:HEX`; empty for a zip."""
    version: str = ""
    dynakube: str = ""
    """Name of the DynaKube whose package the zip is."""
    sha256: str = ""
    """Digest of the zip."""
    keep_until: float = 0.0

    @property
    def name(self) -> str:
        """Name of the directory."""
        return store_key.of_image(self.image) if self.image else f"{self.dynakube}.{self.version}"

    @property
    def title(self) -> str:
        if self.image:
            return f"image {self.image}"
        return f"version {self.version} for {agents.describe_object(self.dynakube)}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A package that waits for the provisioner."""

    directory: Path
    origin: PreloadOrigin


@dataclass(frozen=True, slots=True)
class Preloaded:
    bytes: int
    shared_bytes: int
    """Bytes shared with other versions by hard links."""
    seconds: float


def preload(
    data: DataDir,
    read_package: Callable[[early_files.EarlyFiles], AgentPackage],
    origin: PreloadOrigin,
    existing: dedup.ExistingFiles,
    failpoint: Callable[[str], None] = lambda _name: None,
    on_begin: Callable[[int], tree_writer.OnWritten | None] = lambda _bytes: None,
    on_early: tree_writer.OnWritten | None = None,
) -> Preloaded:
    """Unpack a package for the provisioner.

    `read_package` may write files while it reads, so that an image is decompressed once; `on_early` gets their bytes.
    `on_begin` gets the size of the others, and returns the callback for progress. Raises `NotPreloadedError`,
    `PackageError`, `OSError`, and the errors of `read_package`.
    """
    started = time.perf_counter()
    is_stored = bool(origin.image) and AgentStore(data).has(store_key.of_image(origin.image))
    if is_stored or (data.preloaded / origin.name).exists():
        raise NotPreloadedError(f"{origin.title} is on this node already")
    scratch = data.preloaded / f".{origin.name}"
    scratch.mkdir(exist_ok=True)
    with _locked(scratch) as is_locked:
        if not is_locked:
            raise NotPreloadedError(f"{origin.title} is being preloaded by another command")
        try:
            _clear(scratch)
            tree = scratch / "package"
            tree.mkdir()
            package = read_package(early_files.EarlyFiles(tree, download.free_bytes(data.root), existing, on_early))
            needed, free = package.unpacked_size, download.free_bytes(data.root)
            if needed > free:
                raise NotPreloadedError(f"{origin.title} takes {needed >> 20} MiB, and {free >> 20} MiB are free")
            unpacked = package.unpack(tree, existing=existing, on_written=on_begin(needed))
            unpacked.root.rename(scratch / TREE)
            tree_walker.remove_if_possible(tree)
            failpoint("unpacked")
            unpacked.manifest.dump(scratch / MANIFEST)
            (scratch / ORIGIN).write_bytes(msgspec.json.encode(origin))
            fsync.sync_tree(scratch)
            failpoint("synced")
            scratch.rename(data.preloaded / origin.name)
            sync_directory(data.preloaded)
            failpoint("preloaded")
        except BaseException:
            tree_walker.remove_if_possible(scratch)
            raise
    seconds = time.perf_counter() - started
    return Preloaded(unpacked.unpacked_bytes, existing.shared_bytes, seconds)


def list_waiting(data: DataDir, now: float) -> list[Waiting]:
    """Return the packages that wait for the provisioner. Removes expired ones, and those of older drivers."""
    found = []
    for directory in sorted(data.preloaded.glob("[!.]*")):
        try:
            origin = typed_json.decode((directory / ORIGIN).read_bytes(), PreloadOrigin)
        except (OSError, ValueError) as error:
            log.error("preloaded package discarded, preload it again", extra=logs.fields(path=directory, reason=error))
            data.discard(directory)
            continue
        if origin.keep_until <= now:
            log.info("preloaded package discarded, its time is over", extra=logs.fields(package=origin.title))
            data.discard(directory)
        else:
            found.append(Waiting(directory, origin))
    return found


def store_preloaded(
    data: DataDir,
    waiting: Waiting,
    version: StoreKey,
    prepare: Callable[[Version, Path], None],
    failpoint: Callable[[str], None],
) -> int | None:
    """Put a waiting package into the store under its key; returns its bytes, or None if it was there already.

    The steps are in the order of an install, and can be repeated after each of them.
    """
    preloaded, store = waiting.directory, AgentStore(data)
    size = None
    fsync.replace(data.pin(version), f"{waiting.origin.keep_until:.0f}\n".encode())
    failpoint("pinned")
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
                tree_walker.remove_if_possible(scratch)


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
        tree_walker.remove(entry)


typed_json.prepare(PreloadOrigin)
