"""Single-flight downloads: one per package for all requests, and only of versions that DynaKubes use.

The first request starts the download, with the code that nodes use: it resumes and hashes while it receives. Then
the zip is verified, so that a package corrupted by a tenant or proxy does not reach the cluster. Requests wait a
bounded time and get `Retry-After`; the download continues. A failed download is retried with back-off, not earlier
than the tenant's own `Retry-After`; requests get the reason meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import zipfile
import zlib
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from oneagent.common import backoff, logs, package_client, page_cache, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.kubernetes.errors import ApiError, UnavailableError
from oneagent.common.tenant import client as tenant_client
from oneagent.common.tenant.slots import Slot, Slots
from oneagent.operator.package_server import cache
from oneagent.operator.package_server.errors import (
    NoRoomError,
    NotRequestedError,
    OriginError,
    PackagesError,
    PendingError,
    TooManyVariantsError,
)
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

MAX_CONCURRENT_DOWNLOADS: Final = 3
_PATIENCE_SECONDS: Final = 10.0
"""A download that takes longer mostly waits for its tenant, and does not count for the limit."""
_MAX_THREADS: Final = 64
_SLOT_POLL_SECONDS: Final = 0.1
MAX_VARIANTS: Final = 16
"""Of one version: architectures, flavors, and sets of technologies."""
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 120.0
_EXPECTED: Final = (download.DownloadError, http_client.InvalidSettingsError, ApiError, PackagesError)


class Origin(Protocol):
    """Resolves a package to its download source; may read Secrets. `InvalidSettingsError` or `ApiError`."""

    def __call__(self, package: package_client.Package) -> Awaitable[download.Source]: ...


@dataclass(frozen=True, slots=True)
class DesiredVersion:
    """A version that a DynaKube uses."""

    dynakube: DynaKubeName
    version: Version
    origin: Origin = field(compare=False, repr=False)
    tenant: str
    """Identity of the tenant, and how its server is checked: DynaKubes that agree in it share packages."""
    technologies: tuple[str, ...] = ("all",)
    """Default for requests that name none."""
    server: str = ""
    """The tenant's address: it has one download at a time, so that a slow tenant keeps no other one waiting."""

    @property
    def group(self) -> str:
        return cache.group((self.tenant, self.version))


@dataclass(slots=True)
class _Download:
    desired: DesiredVersion
    cancelled: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[None] | None = None
    failures: int = 0
    next_at: float = 0.0
    error: PackagesError | None = None


class Downloader:
    """For one event loop; downloads run in threads of its own."""

    def __init__(
        self,
        package_cache: cache.PackageCache,
        metrics: PackageMetrics,
        wait_seconds: float,
        limits: download.DownloadLimits = download.DEFAULT_LIMITS,
        on_unknown: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_unknown` is called for a request for a version that is not in the desired ones."""
        self._cache = package_cache
        self._metrics = metrics
        self._wait_seconds = wait_seconds
        self._limits, self._on_unknown = limits, on_unknown
        self._desired: dict[tuple[str, str], DesiredVersion] = {}
        self._downloads: dict[str, _Download] = {}
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="package")
        self._slots = Slots(MAX_CONCURRENT_DOWNLOADS, _PATIENCE_SECONDS)
        self._stopped = False

    def set_desired(self, versions: Iterable[DesiredVersion]) -> None:
        """Replace the versions that can be requested; downloads of others are cancelled."""
        self._desired = {(each.dynakube, each.version): each for each in versions}
        groups = frozenset(each.group for each in self._desired.values())
        self._cache.set_desired(groups)
        for name, job in list(self._downloads.items()):
            if name.partition("-")[0] not in groups:
                job.cancelled.set()
                if job.task is None:
                    del self._downloads[name]

    async def stop(self) -> None:
        """Cancel all downloads; the next process with the directory resumes them."""
        self._stopped = True
        running = [job.task for job in self._downloads.values() if job.task is not None]
        for job in self._downloads.values():
            job.cancelled.set()
        await asyncio.gather(*running, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ensure(self, package: package_client.Package) -> str:
        """Return the key of a package that has just been in the cache; `PackagesError` if unavailable."""
        desired = self._desired.get((package.dynakube, package.version))
        if desired is None:
            self._on_unknown()
            raise NotRequestedError(f"DynaKube {package.dynakube} does not use version {package.version}")
        package = _with_technologies(desired, package)
        name = _key(desired, package)
        if name not in self._downloads and name in self._cache.variants(desired.group):
            return name
        self._check_variants(name, desired, package)
        await self._wait(name, desired, package)
        return name

    def _check_variants(self, name: str, desired: DesiredVersion, package: package_client.Package) -> None:
        """Bound the technologies that clients can choose; those of the DynaKube are always allowed."""
        now = time.monotonic()
        for other, job in list(self._downloads.items()):
            if job.task is None and job.next_at + _LONGEST_PAUSE < now:
                del self._downloads[other]
        if package.technologies == _sorted(desired.technologies):
            return
        variants = self._cache.variants(desired.group) | {
            key for key in self._downloads if key.startswith(desired.group)
        }
        if name not in variants and len(variants) >= MAX_VARIANTS:
            raise TooManyVariantsError(
                f"version {package.version} has been requested in {len(variants)} variants already", 60
            )

    async def _wait(self, name: str, desired: DesiredVersion, package: package_client.Package) -> None:
        job = self._downloads.setdefault(name, _Download(desired))
        if self._stopped:
            raise PendingError("the package server is stopping", retry_after=1)
        if job.task is None:
            left = job.next_at - time.monotonic()
            if job.error is not None and left > 0:
                raise type(job.error)(str(job.error), retry_after=left)
            job.desired = desired
            job.cancelled.clear()
            job.task = asyncio.create_task(self._run(name, job, package), name=f"download {name}")
        try:
            async with asyncio.timeout(self._wait_seconds):
                # Shielded: other requests wait for the same download.
                await asyncio.shield(job.task)
        except TimeoutError:
            raise PendingError(f"version {package.version} is being downloaded", retry_after=1) from None
        if job.error is not None:
            raise type(job.error)(str(job.error), retry_after=job.error.retry_after)

    # ------------------------------------------------------------- one download

    async def _run(self, name: str, job: _Download, package: package_client.Package) -> None:
        """Download one package; an error is stored, not raised."""
        job.error, slot = None, None
        try:
            slot = await self._acquire_slot(job)
            source = await job.desired.origin(package)
            loop = asyncio.get_running_loop()
            got = await loop.run_in_executor(self._threads, self._download, name, source, job.cancelled)
        except Exception as error:  # noqa: BLE001 - clients get an answer, and a later request retries
            self._failed(name, job, package, error)
        else:
            del self._downloads[name]
            self._metrics.downloads.labels("ok").inc()
            self._metrics.download_seconds.observe(got.seconds)
            log.info(
                "package downloaded",
                extra=logs.fields(
                    version=package.version,
                    package=name,
                    arch=package.machine,
                    flavor=package.flavor,
                    technologies=",".join(package.technologies),
                    bytes=got.size,
                    resumed_at=got.resumed_at or None,
                    sha256=got.sha256,
                    seconds=round(got.seconds, 2),
                ),
            )
        finally:
            if slot is not None:
                self._slots.release(slot)
            job.task = None

    async def _acquire_slot(self, job: _Download) -> Slot:
        """Wait for the tenant's turn."""
        while (slot := self._slots.acquire(job.desired.server)) is None:
            if job.cancelled.is_set():
                raise download.DownloadCancelledError("the download was stopped")
            await asyncio.sleep(_SLOT_POLL_SECONDS)
        return slot

    def _download(self, name: str, source: download.Source, cancelled: threading.Event) -> download.Downloaded:
        """Download and verify a package; runs in a thread."""
        with self._cache.incoming(name) as into:

            def transfer() -> download.Downloaded:
                return download.download(
                    source,
                    into,
                    cancelled=cancelled,
                    limits=self._limits,
                    progress=lambda _received, total: self._cache.reserve(name, total),
                    free=lambda _directory: self._cache.free_bytes(name),
                )

            try:
                got = transfer()
            except download.DiskFullError as error:
                self._cache.make_room(max(error.needed, 1), name)
                got = transfer()
            if not got.is_temporary:
                raise OriginError("packages in a directory of a node are not served")
            try:
                verify(got.path)
            except OriginError:
                got.path.unlink(missing_ok=True)
                raise
            self._cache.add(name, got.size, got.sha256)
            return got

    def _failed(self, name: str, job: _Download, package: package_client.Package, error: Exception) -> None:
        if isinstance(error, download.DownloadCancelledError):
            self._metrics.downloads.labels("cancelled").inc()
            # Even if it is desired again by now: the next request resumes it.
            job.error = PendingError("the download was stopped", retry_after=1)
            del self._downloads[name]
            return
        job.failures += 1
        pause = backoff.exponential(job.failures, _FIRST_PAUSE, _LONGEST_PAUSE)
        pause = backoff.at_least(pause, getattr(error, "retry_after", None))
        job.next_at = time.monotonic() + pause
        job.error = _answer(error, pause)
        expected = isinstance(error, _EXPECTED)
        self._metrics.downloads.labels("failed").inc()
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "package download failed",
            exc_info=None if expected else error,
            extra=logs.fields(version=package.version, reason=error, retry_seconds=round(pause, 1)),
        )


def verify(path: Path) -> None:
    """Check every member of an archive against its checksum; `OriginError` if invalid."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > unpack.UnpackLimits().unpacked_bytes:
                raise OriginError("the unpacked size of the tenant's package exceeds the limit")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise OriginError(f"the tenant's package is not a readable zip: {str(error)[:200]}") from error
    if damaged is not None:
        raise OriginError(f"the tenant's package is corrupt: checksum of {damaged[:200]!r} does not match")
    with path.open("rb") as file:
        page_cache.drop_read(file.fileno())


def _answer(error: Exception, pause: float) -> PackagesError:
    """Return the error for clients; only expected errors have a text that may be shown."""
    match error:
        case PackagesError():
            return type(error)(str(error), retry_after=pause)
        case download.DiskFullError() | download.DiskFailedError():
            return NoRoomError("the disk of the package server is full or not writable", retry_after=pause)
        case download.DownloadSourceError(cause=errors.HttpError(is_transient=True)) | UnavailableError():
            return PendingError(f"download failed temporarily: {error}", retry_after=pause)
        case download.DownloadError() | http_client.InvalidSettingsError():
            return OriginError(f"download failed: {error}", retry_after=pause)
        case _:
            return OriginError("download failed; see the operator's log for the reason", retry_after=pause)


def _with_technologies(desired: DesiredVersion, package: package_client.Package) -> package_client.Package:
    """Return the package with sorted technologies; the DynaKube's if the request names none."""
    technologies = _sorted(package.technologies or desired.technologies)
    return package_client.Package(package.dynakube, package.version, package.machine, package.flavor, technologies)


def _sorted(technologies: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(technologies))) or ("all",)


def _key(desired: DesiredVersion, package: package_client.Package) -> str:
    variant = (tenant_client.architecture(package.machine), package.flavor, *package.technologies)
    return cache.key(version=(desired.tenant, desired.version), variant=variant)
