"""One download for each package, however many ask for it, and none for what nobody wants.

A package is fetched when the first caller asks, by the downloader that nodes use: resumed where it broke, hashed
while it arrives. Then it is read through once, so that what a tenant or a proxy has spoilt is not handed to a
whole cluster. Callers wait a bounded time and are told to come back; the download goes on without them. After a
failure the next one waits for a growing pause, never less than the tenant's own `Retry-After`, and callers are
told the reason meanwhile.
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
from oneagent.operator.package_server import cache
from oneagent.operator.package_server.errors import (
    NoRoomError,
    OriginError,
    PackagesError,
    PendingError,
    TooManyKindsError,
    UnwantedError,
)
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

AT_ONCE: Final = 3
KINDS: Final = 16
"""Most variants of one version: architectures, flavors, and sets of technologies."""
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 120.0
_KNOWN: Final = (download.DownloadError, http_client.InvalidSettingsError, ApiError, PackagesError)


class Origin(Protocol):
    """Tells where a package is; it may read a Secret. `InvalidSettingsError` or `ApiError` if that can't be told."""

    def __call__(self, package: package_client.Package) -> Awaitable[download.Source]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version that a DynaKube wants."""

    dynakube: DynaKubeName
    version: Version
    origin: Origin = field(compare=False, repr=False)
    tenant: str
    """What tells tenants apart, such as the API URL: DynaKubes of one tenant share their packages."""
    technologies: tuple[str, ...] = ("all",)
    """For who does not say which."""

    @property
    def group(self) -> str:
        return cache.group((self.tenant, self.version))


@dataclass(slots=True)
class _Fetch:
    wanted: Wanted
    cancelled: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[None] | None = None
    failures: int = 0
    next_at: float = 0.0
    error: PackagesError | None = None


class Fetches:
    """For one event loop; downloads run in threads of its own."""

    def __init__(
        self,
        packages_kept: cache.PackageCache,
        metrics: PackageMetrics,
        wait_seconds: float,
        limits: download.Limits = download.DEFAULT_LIMITS,
        unknown: Callable[[], None] = lambda: None,
    ) -> None:
        """`unknown` is called when somebody asks for what nobody is known to want."""
        self._shelf = packages_kept
        self._metrics = metrics
        self._wait_seconds = wait_seconds
        self._limits, self._unknown = limits, unknown
        self._wanted: dict[tuple[str, str], Wanted] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="package")
        self._stopped = False

    def want(self, wanted: Iterable[Wanted]) -> None:
        """These versions can be had and no others; what is fetched for another one is cancelled."""
        self._wanted = {(each.dynakube, each.version): each for each in wanted}
        groups = frozenset(each.group for each in self._wanted.values())
        self._shelf.want(groups)
        for name, fetch in list(self._fetches.items()):
            if name.partition("-")[0] not in groups:
                fetch.cancelled.set()
                if fetch.task is None:
                    del self._fetches[name]

    async def stop(self) -> None:
        """Cancel all downloads; what came is resumed by the next process that has the folder."""
        self._stopped = True
        running = [fetch.task for fetch in self._fetches.values() if fetch.task is not None]
        for fetch in self._fetches.values():
            fetch.cancelled.set()
        await asyncio.gather(*running, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def have(self, package: package_client.Package) -> str:
        """The key of a package that was on the shelf a moment ago; a `PackagesError` if it can't be had now."""
        wanted = self._wanted.get((package.dynakube, package.version))
        if wanted is None:
            self._unknown()
            raise UnwantedError(f"DynaKube {package.dynakube} does not want version {package.version}")
        asked = _filled(wanted, package)
        name = _key(wanted, asked)
        if name not in self._fetches and name in self._shelf.kinds(wanted.group):
            return name
        self._check_number(name, wanted, asked)
        await self._fetched(name, wanted, asked)
        return name

    def _check_number(self, name: str, wanted: Wanted, package: package_client.Package) -> None:
        """A caller may choose technologies, but not make us fetch without end; what the DynaKube names always goes."""
        now = time.monotonic()
        for other, fetch in list(self._fetches.items()):
            if fetch.task is None and fetch.next_at + _LONGEST_PAUSE < now:
                del self._fetches[other]
        if package.technologies == _sorted(wanted.technologies):
            return
        kinds = self._shelf.kinds(wanted.group) | {key for key in self._fetches if key.startswith(wanted.group)}
        if name not in kinds and len(kinds) >= KINDS:
            raise TooManyKindsError(f"version {package.version} is asked for in {len(kinds)} kinds already", 60)

    async def _fetched(self, name: str, wanted: Wanted, package: package_client.Package) -> None:
        fetch = self._fetches.setdefault(name, _Fetch(wanted))
        if self._stopped:
            raise PendingError("the endpoint is being stopped", retry_after=1)
        if fetch.task is None:
            left = fetch.next_at - time.monotonic()
            if fetch.error is not None and left > 0:
                raise type(fetch.error)(str(fetch.error), retry_after=left)
            fetch.wanted = wanted
            fetch.cancelled.clear()
            fetch.task = asyncio.create_task(self._fetch(name, fetch, package), name=f"fetch {name}")
        try:
            async with asyncio.timeout(self._wait_seconds):
                # Shielded: the download is everybody's.
                await asyncio.shield(fetch.task)
        except TimeoutError:
            raise PendingError(f"version {package.version} is being downloaded", retry_after=1) from None
        if fetch.error is not None:
            raise type(fetch.error)(str(fetch.error), retry_after=fetch.error.retry_after)

    # ---------------------------------------------------------------- one fetch

    async def _fetch(self, name: str, fetch: _Fetch, package: package_client.Package) -> None:
        """Never raises but when cancelled: what went wrong stands in `fetch.error`."""
        fetch.error = None
        try:
            source = await fetch.wanted.origin(package)
            loop = asyncio.get_running_loop()
            got = await loop.run_in_executor(self._threads, self._bring, name, source, fetch.cancelled)
        except Exception as error:  # noqa: BLE001 - whatever it is, callers get an answer and the next one tries again
            self._failed(name, fetch, package, error)
        else:
            del self._fetches[name]
            self._metrics.downloads.labels("ok").inc()
            self._metrics.download_seconds.observe(got.seconds)
            log.info(
                "package downloaded",
                extra=logs.facts(
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
            fetch.task = None

    def _bring(self, name: str, source: download.Source, cancelled: threading.Event) -> download.Downloaded:
        """Download and verify, in a thread."""
        with self._shelf.arriving(name) as into:

            def fetch() -> download.Downloaded:
                return download.download(
                    source,
                    into,
                    cancelled=cancelled,
                    limits=self._limits,
                    progress=lambda _received, total: self._shelf.expect(name, total),
                    free=lambda _folder: self._shelf.free(name),
                )

            try:
                got = fetch()
            except download.DiskFullError as error:
                self._shelf.make_room(max(error.needed, 1), name)
                got = fetch()
            if not got.is_temporary:
                raise OriginError("archives on a node are not served")
            try:
                verify(got.path)
            except OriginError:
                got.path.unlink(missing_ok=True)
                raise
            self._shelf.add(name, got.size, got.sha256)
            return got

    def _failed(self, name: str, fetch: _Fetch, package: package_client.Package, error: Exception) -> None:
        if isinstance(error, download.DownloadCancelledError):
            self._metrics.downloads.labels("cancelled").inc()
            # Also if it is wanted again meanwhile: the next caller goes on where this one stopped.
            fetch.error = PendingError("the download was stopped", retry_after=1)
            del self._fetches[name]
            return
        fetch.failures += 1
        pause = backoff.exponential(fetch.failures, _FIRST_PAUSE, _LONGEST_PAUSE)
        pause = backoff.at_least(pause, getattr(error, "retry_after", None))
        fetch.next_at = time.monotonic() + pause
        fetch.error = _answer(error, pause)
        known = isinstance(error, _KNOWN)
        self._metrics.downloads.labels("failed").inc()
        log.log(
            logging.WARNING if known else logging.ERROR,
            "package can't be downloaded",
            exc_info=None if known else error,
            extra=logs.facts(version=package.version, reason=error, retry_seconds=round(pause, 1)),
        )


def verify(path: Path) -> None:
    """Read an archive through, each member against its checksum; `OriginError` if anything is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > unpack.Limits().unpacked_bytes:
                raise OriginError("the tenant's package is larger unpacked than an agent can be")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise OriginError(f"the tenant's package is not a readable zip: {str(error)[:200]}") from error
    if damaged is not None:
        raise OriginError(f"the tenant's package is damaged: {damaged[:200]!r} has another checksum")
    with path.open("rb") as file:
        page_cache.drop_read(file.fileno())


def _answer(error: Exception, pause: float) -> PackagesError:
    """What callers are told; only known errors have a text that may be shown."""
    match error:
        case PackagesError():
            return type(error)(str(error), retry_after=pause)
        case download.DiskFullError() | download.DiskFailedError():
            return NoRoomError("the endpoint's disk is full or can't be written", retry_after=pause)
        case download.DownloadSourceError(cause=errors.HttpError(is_transient=True)) | UnavailableError():
            return PendingError(f"the package can't be downloaded just now: {error}", retry_after=pause)
        case download.DownloadError() | http_client.InvalidSettingsError():
            return OriginError(f"the package can't be downloaded: {error}", retry_after=pause)
        case _:
            return OriginError("the package can't be downloaded: the operator's log says why", retry_after=pause)


def _filled(wanted: Wanted, package: package_client.Package) -> package_client.Package:
    """The package with the technologies in one order; the DynaKube's, if the caller names none."""
    technologies = _sorted(package.technologies or wanted.technologies)
    return package_client.Package(package.dynakube, package.version, package.machine, package.flavor, technologies)


def _sorted(technologies: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(technologies))) or ("all",)


def _key(wanted: Wanted, package: package_client.Package) -> str:
    kind = (tenant_client.architecture(package.machine), package.flavor, *package.technologies)
    return cache.key(what=(wanted.tenant, wanted.version), kind=kind)
