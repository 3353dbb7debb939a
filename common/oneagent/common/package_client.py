"""Client of the operator's package server: asks for a package's metadata, then downloads it.

A client needs no tenant token. It proves its identity by a service account token that is valid for
`AUDIENCE` only. It requests the metadata first. The server answers once it has the whole package, and
names the SHA-256 that the bytes must have. A broken transfer resumes only if the ETag is the same digest,
so the bytes of two packages never mix.

All waits are bounded, because every client has an alternative: a node downloads from the tenant itself, a
pod starts without its agent.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from oneagent.common import foreign_json, identifiers, typed_json
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors, exchange
from oneagent.common.injection import contract
from oneagent.common.tenant import client as tenant_client

AUDIENCE: Final = contract.PACKAGE_AUDIENCE
PATH_PREFIX: Final = "/v1/packages"
METADATA: Final = "metadata"
FLAVORS: Final = ("default", "multidistro")

_DYNAKUBE: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_TECHNOLOGY: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_MAX_TECHNOLOGIES: Final = 16
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,8000}")
_CONNECT_SECONDS: Final = 5.0
_RESPONSE_SECONDS: Final = 30.0
_MAX_RESPONSE_BYTES: Final = 64 * 1024
_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 5.0

LIMITS: Final = download.DownloadLimits(attempts=3, max_pause_seconds=5.0)
"""The server is in the same cluster: after some seconds without success a client stops retrying."""


@dataclass(frozen=True, slots=True)
class Package:
    """The requested package. `InvalidSettingsError` for a name that no server has, so each part is safe in a URL."""

    dynakube: identifiers.DynaKubeName
    version: identifiers.Version
    machine: str
    """Machine as `platform.machine()` returns it."""
    flavor: str = "default"
    technologies: tuple[str, ...] = ()
    """Code modules; empty for those that the DynaKube names."""

    def __post_init__(self) -> None:
        if not _DYNAKUBE.fullmatch(self.dynakube):
            raise http_client.InvalidSettingsError(f"dynakube: {self.dynakube[:80]!r} is not the name of a DynaKube")
        try:
            tenant_client.parse_version(self.version, "version")
        except errors.UnexpectedResponseError as error:
            raise http_client.InvalidSettingsError(str(error)) from None
        tenant_client.architecture(self.machine[:40] or "none")
        if self.flavor not in FLAVORS:
            raise http_client.InvalidSettingsError(f"flavor: {self.flavor[:40]!r} is none of {', '.join(FLAVORS)}")
        if len(self.technologies) > _MAX_TECHNOLOGIES or not all(map(_TECHNOLOGY.fullmatch, self.technologies)):
            raise http_client.InvalidSettingsError(
                f"technologies: at most {_MAX_TECHNOLOGIES} names such as java, of lower case letters, are needed"
            )

    @property
    def path(self) -> str:
        return f"{PATH_PREFIX}/{self.dynakube}/{self.version}"

    @property
    def query(self) -> str:
        params = {"arch": self.machine, "flavor": self.flavor}
        if self.technologies:
            params["technologies"] = ",".join(sorted(self.technologies))
        return urllib.parse.urlencode(params, safe=",")


class Metadata(msgspec.Struct, frozen=True):
    """Answer of the server about a package that it has."""

    version: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of the server. Token and CA are read at each use: both are renewed while a process runs."""

    url: str
    """`https://host:port`"""
    token_file: Path
    ca_file: Path | None = None
    """Certificates to trust besides the system's."""

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        try:
            is_port_valid = parts.port is None or parts.port > 0
        except ValueError:
            is_port_valid = False
        rest = parts.path.rstrip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "https" or not parts.hostname or rest or not is_port_valid:
            raise http_client.InvalidSettingsError(
                f"package endpoint: {errors.redact_url(self.url)}: https://host:port is needed"
            )

    def source(self, package: Package) -> download.HttpSource:
        """Return the download source of a package; `InvalidSettingsError` if token or CA cannot be read."""
        token, authorities = _read_file(self.token_file), _read_file(self.ca_file) if self.ca_file else ""
        if not _TOKEN.fullmatch(token):
            raise http_client.InvalidSettingsError(f"{self.token_file}: not a service account's token")
        return download.HttpSource(
            f"{self.url.rstrip('/')}{package.path}?{package.query}",
            headers={"Authorization": f"Bearer {token}", "User-Agent": identifiers.DISTRIBUTION},
            http=http_client.HttpSettings(trusted_cas=authorities, timeout_seconds=_CONNECT_SECONDS),
            secret=token,
            remedy=f"a projected service account token for the audience {AUDIENCE} is needed",
        )


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """Time that a client waits for the server before it uses its alternative."""

    away_seconds: float = 10.0
    """While the server is unreachable or does not yet know that the version is requested."""
    pending_seconds: float = 60.0
    """While the server is busy or downloads the package itself."""


DEFAULT_WAIT: Final = WaitLimits()


@dataclass(frozen=True, slots=True)
class AvailablePackage:
    """A package that the server has."""

    source: download.HttpSource
    metadata: Metadata = field(repr=False)


def download_package(
    endpoint: Endpoint,
    package: Package,
    into: Path,
    *,
    cancelled: threading.Event,
    wait: WaitLimits = DEFAULT_WAIT,
    limits: download.DownloadLimits = LIMITS,
    free: Callable[[Path], int] = download.free_bytes,
) -> download.Downloaded:
    """Download a package to `into` and verify it. Raises `DownloadError`, `HttpError` or `InvalidSettingsError`."""
    try:
        with exchange.cancel_scope(cancelled):
            available = wait_for_package(endpoint, package, cancelled=cancelled, wait=wait)
    except errors.RequestCancelledError as error:
        raise download.DownloadCancelledError(str(error)) from error
    return download.download(
        available.source,
        into,
        cancelled=cancelled,
        expected_size=available.metadata.size,
        expected_sha256=available.metadata.sha256,
        limits=limits,
        free=free,
    )


def wait_for_package(
    endpoint: Endpoint,
    package: Package,
    *,
    cancelled: threading.Event,
    wait: WaitLimits = DEFAULT_WAIT,
    clock: Callable[[], float] = time.monotonic,
) -> AvailablePackage:
    """Return the package once the server has it; `HttpError` after the wait limits."""
    began = clock()
    while True:
        source = endpoint.source(package)
        try:
            return AvailablePackage(source, _request_metadata(source, package))
        except errors.HttpError as error:
            pause = min(max(error.retry_after or _PAUSE_SECONDS, 0.1), _MAX_PAUSE_SECONDS)
            if clock() + pause - began > _max_wait_seconds(error, wait):
                raise
        if cancelled.wait(pause):
            raise download.DownloadCancelledError(f"{errors.redact_url(source.url)}: stopped")


def _max_wait_seconds(error: errors.HttpError, wait: WaitLimits) -> float:
    """Return the seconds since the first request for which this error is retried."""
    match error:
        case errors.RateLimitedError():
            return wait.pending_seconds
        case errors.HttpStatusError(status=404):
            return wait.away_seconds
        case errors.UnreachableError(is_transient=True):
            return wait.away_seconds
        case _:
            return 0.0


def _request_metadata(source: download.HttpSource, package: Package) -> Metadata:
    location, _, query = source.url.partition("?")
    url = f"{location}/{METADATA}?{query}"
    with http_client.create(source.http) as http:
        response, body = http.fetch(
            "GET",
            url,
            headers=source.headers,
            max_bytes=_MAX_RESPONSE_BYTES,
            idle_seconds=_RESPONSE_SECONDS,
            deadline_seconds=_CONNECT_SECONDS + _RESPONSE_SECONDS,
        )
    if response.status_code != 200:
        raise errors.from_response(response, body, secret=source.secret, remedy=source.remedy)
    try:
        answer = foreign_json.decode(body, Metadata)
    except foreign_json.DocumentError as error:
        raise errors.UnexpectedResponseError(f"{location}: not the documented response: {error}") from error
    if answer.version != package.version or answer.size < 0 or not _SHA256.fullmatch(answer.sha256):
        raise errors.UnexpectedResponseError(f"{location}: describes another version than {package.version}")
    return answer


def _read_file(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise http_client.InvalidSettingsError(f"{path}: {reason}") from error


typed_json.prepare(Metadata)
