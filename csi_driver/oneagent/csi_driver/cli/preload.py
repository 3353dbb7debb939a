"""`oneagent-csi preload`: put a zip, or an image in an OCI layout, into the agent store of this node.

A zip is the package of one DynaKube's source; it names its version by a directory in it. An image is known by its
digest, as if a registry had sent it: so a DynaKube that requests the image finds it in the store. `store.preload` has
the steps from the package to the store.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from rich import progress
from rich.console import Console

from oneagent.common import agents, identifiers, report_output, terminal, unpack
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.oci import image as oci_image
from oneagent.common.oci import layout
from oneagent.common.oci import reference as oci_reference
from oneagent.common.unpack import AgentPackage, agent_layout, early_files, tree_writer, zip
from oneagent.common.unpack import image as unpack_image
from oneagent.csi_driver.cli import progress_bars
from oneagent.csi_driver.cli.errors import CommandError, explain_access
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.linux.clock import SteadyClock
from oneagent.csi_driver.store import AgentStore, store_key, usage
from oneagent.csi_driver.store import preload as store_preload
from oneagent.csi_driver.store.preload import NotPreloadedError, PreloadOrigin

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
_POLL_SECONDS: Final = 0.1

ReportProgress = Callable[[int, int], None]
"""Called with bytes done, and all bytes."""


class LocalPackage(Protocol):
    @property
    def origin(self) -> PreloadOrigin: ...

    def read(self, report_progress: ReportProgress, early: early_files.EarlyFiles) -> AgentPackage:
        """Verify the package; `unpack.PackageError` or `download.DownloadError` if it is corrupt.

        Files may be written meanwhile, by `early`.
        """
        ...


@dataclass(frozen=True, slots=True)
class ZipPackage:
    """A zip on this machine."""

    version: Version
    dynakube: str
    path: Path

    @property
    def origin(self) -> PreloadOrigin:
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return PreloadOrigin(version=self.version, dynakube=self.dynakube, sha256=digest)

    def read(self, report_progress: ReportProgress, early: early_files.EarlyFiles) -> AgentPackage:
        return zip.read(self.path)


@dataclass(frozen=True, slots=True)
class ImagePackage:
    """An image in an OCI layout, by its digest."""

    image: oci_reference.LayoutReference

    @property
    def origin(self) -> PreloadOrigin:
        return PreloadOrigin(image=self.image.digest)

    def read(self, report_progress: ReportProgress, early: early_files.EarlyFiles) -> AgentPackage:
        with oci_image.Image(self.image, oci_image.Access()) as opened:
            layers = opened.layers()
        total, done = sum(layer.size for layer in layers), 0
        blobs = []
        for layer in layers:
            downloaded = download.download(
                layer.sources[-1],
                self.image.path,
                cancelled=threading.Event(),
                expected_size=layer.size,
                expected_sha256=layer.sha256,
                progress=partial(_add_progress, report_progress, done, total),
            )
            done += downloaded.size
            blobs.append(downloaded.path)
        return unpack_image.read(blobs, early=early)


def run(
    data: DataDir,
    package: Path | oci_reference.LayoutReference,
    version: Version,
    dynakube: str,
    *,
    keep_seconds: float,
    wait_seconds: float,
    output_format: str,
) -> int:
    """Preload a package, wait for the provisioner if one is running, and print the result; the exit code."""
    console = Console(stderr=True)
    try:
        data.create()
        store = AgentStore(data)
        local = open_package(package, version, dynakube)
        origin = msgspec.structs.replace(local.origin, keep_until=SteadyClock(data.clock).now() + keep_seconds)
        with progress_bars.create(console) as bars:
            unpacking = _UnpackingBar(bars)
            preloaded = store_preload.preload(
                data,
                partial(local.read, _add_bar(bars, "checking")),
                origin,
                usage.list_shareable(data, store),
                on_begin=unpacking.begin,
                on_early=unpacking.advance,
            )
        with console.status("waiting for the provisioner"):
            is_stored = _wait_until_stored(data, origin, wait_seconds)
    except (NotPreloadedError, unpack.PackageError, download.DownloadError) as error:
        raise CommandError("NotPreloaded", f"{package}: {error}") from error
    except OSError as error:
        remedy = explain_access(error, data)
        raise CommandError(
            "NotPreloaded", f"{package} can't be preloaded: {error.strerror} ({error.filename}){remedy}"
        ) from error
    if output_format:
        named = store_key.of_image(origin.image) if origin.image else origin.version
        result: dict[str, Any] = {"format": JSON_FORMAT, "version": named, "taken": is_stored}
        result |= {"bytes": preloaded.bytes, "shared_bytes": preloaded.shared_bytes}
        report_output.write(result | {"seconds": round(preloaded.seconds, 3)}, output_format)
    else:
        place = "is in the store" if is_stored else "waits for the provisioner, which puts it into the store"
        if not is_stored and origin.dynakube:
            place += f" once the {agents.kind_of_object(origin.dynakube)} is known on this node"
        text = f"{origin.title}, {preloaded.bytes >> 20} MiB, {place}"
        sys.stdout.writelines(f"{line}\n" for line in terminal.of_stream().wrap(text))
    return 0


def open_package(package: Path | oci_reference.LayoutReference, version: Version, dynakube: str) -> LocalPackage:
    """Return the package; `version` and `dynakube` are those of the command line, if any."""
    if isinstance(package, Path):
        version = version or _read_version(package)
        if not dynakube:
            raise NotPreloadedError("a zip does not name its source; set --dynakube to the DynaKube that it is for")
        return ZipPackage(version, dynakube, package)
    if version or dynakube:
        raise NotPreloadedError("an image is known by its digest; leave --version and --dynakube out")
    with oci_image.Image(package, oci_image.Access()) as opened:
        return ImagePackage(package.at(opened.digest()))


def _add_progress(report_progress: ReportProgress, before: int, total: int, done: int, _size: int | None) -> None:
    report_progress(before + done, total)


def _read_version(archive: Path) -> Version:
    try:
        with zip.open_zip(archive) as package:
            version = agent_layout.read_version(package.index)
    except unpack.CorruptPackageError as error:
        if command := _layout_command(archive):
            raise NotPreloadedError(f"a tar is no package; convert it to an OCI layout: {command}") from error
        raise
    if not version or not identifiers.is_version(version):
        raise NotPreloadedError("the package names no version; set --version")
    return Version(version)


def _layout_command(archive: Path) -> str:
    """Return the command that makes an OCI layout of a tar; empty if it is none."""
    try:
        with tarfile.open(archive) as tar:
            is_layout = layout.MARKER in tar.getnames()
    except (OSError, tarfile.TarError):
        return ""
    return f"tar -xf {archive} -C DIRECTORY" if is_layout else f"skopeo copy docker-archive:{archive} oci:DIRECTORY"


class _UnpackingBar:
    """The bar of unpacking. The size of an image is known once it has been read, and most of it is written by then."""

    def __init__(self, bars: progress.Progress) -> None:
        self._bars = bars
        self._task: progress.TaskID | None = None

    def begin(self, total: int) -> tree_writer.OnWritten:
        if self._task is None:
            self._task = self._bars.add_task("unpacking", total=total)
        return self.advance

    def advance(self, written: int) -> None:
        if self._task is None:
            self._task = self._bars.add_task("unpacking", total=None)
        self._bars.advance(self._task, written)


def _add_bar(bars: progress.Progress, title: str) -> ReportProgress:
    """Return a callback whose bar appears at its first call."""
    task: progress.TaskID | None = None

    def report_progress(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            task = bars.add_task(title, total=total)
        bars.update(task, completed=done)

    return report_progress


def _wait_until_stored(data: DataDir, origin: PreloadOrigin, wait_seconds: float) -> bool:
    """Wait for the provisioner, if one is running, to take the package; False if it does not in time."""
    deadline = time.monotonic() + wait_seconds
    while (data.preloaded / origin.name).exists():
        if time.monotonic() > deadline or not process.is_locked(data.root / "provisioner.lock"):
            return False
        time.sleep(_POLL_SECONDS)
    return True
