"""HTTP client with the cluster's proxy, its certificate authorities and time limits.

Only the settings count. Proxies and certificate stores from environment variables are ignored, because the
same DynaKube must behave the same on every node. A request that began with TLS is never redirected to one
without, a request with a body never at all, and a redirect to another host does not take the token along.

All waits of a request, redirects and response included, share one deadline (see `exchange`).

    InvalidSettingsError     a setting cannot be used; names the field, and never shows a password
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import certifi
import httpx2 as httpx

from oneagent.common import addresses
from oneagent.common.http import errors, exchange, network, pem
from oneagent.common.identifiers import DISTRIBUTION

_MAX_REDIRECTS: Final = 5


class InvalidSettingsError(ValueError):
    """A setting cannot be used."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Proxy, trust and time limits of requests."""

    proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    """Host names, domains (`.example.com`), addresses, networks, or `*`."""
    trusted_cas: str = field(default="", repr=False)
    """PEM text of certificates to trust besides the system's."""
    skip_cert_check: bool = False
    timeout_seconds: float = 30.0
    """Limit for each of: connect, send, and wait for the next bytes. A short exchange ends after twice this time."""

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise InvalidSettingsError(f"timeout: {self.timeout_seconds} s: a positive number is needed")
        if self.proxy:
            try:
                url = httpx.URL(self.proxy)
            except httpx.InvalidURL:
                raise InvalidSettingsError("proxy: not a URL such as http://user:password@host:port") from None
            if url.scheme not in ("http", "https") or not url.host:
                raise InvalidSettingsError("proxy: http://host:port or https://host:port is needed")


class Client:
    """Sends requests over a pool of connections. Thread-safe; close it after use.

    A response comes without its body, whatever its size. No cookie is kept, and no body is decompressed.
    """

    def __init__(self, transport: httpx.BaseTransport, settings: HttpSettings, headers: Mapping[str, str]) -> None:
        self._transport = transport
        self._settings = settings
        self._headers = httpx.Headers({"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": DISTRIBUTION})
        self._headers.update(headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        idle_seconds: float | None = None,
        deadline_seconds: float | None = None,
        rate: exchange.MinimumRate | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request, follow redirects, and yield the response to read. Raises `HttpError`.

        `idle_seconds` bounds the wait for the next bytes, by default the settings' time limit. `deadline_seconds`
        bounds the whole exchange, by default twice that limit; with `rate` it ends with the response's headers.
        """
        where = errors.redact_url(url)
        seconds = deadline_seconds or 2 * self._settings.timeout_seconds
        limits = exchange.Exchange(where, time.monotonic() + seconds, rate)
        try:
            request = self._build(method, url, params, headers or {}, json, idle_seconds)
            with exchange.activate(limits), contextlib.closing(self._send(request)) as response:
                limits.begin_body()
                assert isinstance(response.stream, httpx.SyncByteStream)
                response.stream = _CountedStream(response.stream, limits)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise errors.from_transport_error(error, url) from error

    def fetch(
        self,
        method: str,
        url: str,
        *,
        max_bytes: int,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        idle_seconds: float | None = None,
        deadline_seconds: float | None = None,
    ) -> tuple[httpx.Response, bytes]:
        """Return a response with its whole body of at most `max_bytes`. Raises `HttpError`."""
        with self.stream(
            method,
            url,
            params=params,
            headers=headers,
            json=json,
            idle_seconds=idle_seconds,
            deadline_seconds=deadline_seconds,
        ) as response:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > max_bytes:
                    where = errors.redact_url(str(response.url))
                    raise errors.UnexpectedResponseError(f"{where}: a response of more than {max_bytes:,} bytes")
        return response, bytes(body)

    def _build(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        json: object,
        idle_seconds: float | None,
    ) -> httpx.Request:
        limit, all_headers = self._settings.timeout_seconds, self._headers.copy()
        all_headers.update(headers)
        timeouts = {"connect": limit, "read": idle_seconds or limit, "write": limit, "pool": limit}
        return httpx.Request(
            method,
            httpx.URL(url).copy_merge_params(params) if params else url,
            headers=all_headers,
            json=json,
            extensions={"timeout": timeouts},
        )

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Return the first response that is no redirect."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._transport.handle_request(request)
            response.request = request
            if not response.has_redirect_location:
                return response
            # Closed without a look at its body, which may be of any size. This also ends its connection.
            response.close()
            request = _redirected(request, response.headers["Location"])
        raise httpx.TooManyRedirects(f"more than {_MAX_REDIRECTS} redirects", request=request)


class _CountedStream(httpx.SyncByteStream):
    """A body whose bytes are counted."""

    def __init__(self, body: httpx.SyncByteStream, limits: exchange.Exchange) -> None:
        self._body, self._limits = body, limits

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._limits.add_body(len(chunk))
            yield chunk

    def close(self) -> None:
        self._body.close()


def create(settings: HttpSettings, headers: Mapping[str, str] | None = None) -> Client:
    """Create a client, to be closed after use. Costs some 20 ms, mostly for reading certificates."""
    context = _tls_context(settings)
    direct = _transport(context)
    transport: httpx.BaseTransport = direct
    if settings.proxy:
        own_tls = context if httpx.URL(settings.proxy).scheme == "https" else None
        proxied = _transport(context, httpx.Proxy(settings.proxy, ssl_context=own_tls))
        transport = _ProxyRouter(direct, proxied, settings.no_proxy)
    return Client(transport, settings, headers or {})


def _transport(context: ssl.SSLContext, proxy: httpx.Proxy | None = None) -> httpx.HTTPTransport:
    transport = httpx.HTTPTransport(verify=context, trust_env=False, proxy=proxy)
    # The pool has a parameter for it, which the transport does not hand on.
    transport._pool._network_backend = network.Backend()
    return transport


def _redirected(request: httpx.Request, location: str) -> httpx.Request:
    """Return the request of a redirect; `httpx.UnsupportedProtocol` for one that is not followed."""
    if request.method not in ("GET", "HEAD"):
        raise httpx.UnsupportedProtocol(f"a redirect of a {request.method} request, which has a body", request=request)
    try:
        target = request.url.join(location).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise httpx.UnsupportedProtocol("a redirect to an invalid URL", request=request) from None
    if target.scheme not in ("http", "https") or not target.host or target.userinfo:
        raise httpx.UnsupportedProtocol("a redirect to an unusable URL", request=request)
    if request.url.scheme == "https" and target.scheme != "https":
        raise httpx.UnsupportedProtocol("a redirect from https to http", request=request)
    headers = request.headers.copy()
    del headers["Host"]
    if (target.scheme, target.netloc) != (request.url.scheme, request.url.netloc):
        # Another host, or another port of it, is somebody else.
        headers.pop("Authorization", None)
    return httpx.Request(request.method, target, headers=headers, extensions=request.extensions)


class _ProxyRouter(httpx.BaseTransport):
    """Sends each request, redirected ones too, directly or through the proxy."""

    def __init__(self, direct: httpx.HTTPTransport, proxied: httpx.HTTPTransport, no_proxy: tuple[str, ...]) -> None:
        self._direct, self._proxied, self._no_proxy = direct, proxied, no_proxy

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        port = request.url.port or {"http": 80, "https": 443}.get(request.url.scheme, 0)
        if bypasses_proxy(request.url.host, port, self._no_proxy):
            return self._direct.handle_request(request)
        if ":" in request.url.host:
            request.extensions = {**request.extensions, "sni_hostname": request.url.host}
            request.url = _BracketedUrl(request.url)
        return self._proxied.handle_request(request)

    def close(self) -> None:
        self._direct.close()
        self._proxied.close()


class _BracketedUrl(httpx.URL):
    """Names an address of IPv6 to a proxy in brackets, which the library leaves out."""

    @property
    def raw_host(self) -> bytes:
        return b"[%b]" % super().raw_host


def bypasses_proxy(host: str, port: int, no_proxy: tuple[str, ...]) -> bool:
    """Return True if `host` is reached without the proxy.

    As in Go: `example.com` covers all names below it, `.example.com` and `*.example.com` those alone, `*` covers all,
    and an entry with a port covers that port only.
    """
    host = host.lower()
    return any(_matches(entry.strip().lower(), host, port) for entry in no_proxy)


def _matches(entry: str, host: str, port: int) -> bool:
    own_port = ""
    if entry.startswith("["):
        with contextlib.suppress(addresses.AddressError):
            entry, own_port = addresses.split_port(entry)
    elif entry.count(":") == 1:  # More are an address or a network of IPv6.
        entry, _, own_port = entry.partition(":")
    if not entry or own_port not in ("", str(port)):
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # one of the two is a name
        domain = entry.removeprefix("*").removeprefix(".")
        return entry in ("*", host) or (bool(domain) and host.endswith(f".{domain}"))


def _tls_context(settings: HttpSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.skip_cert_check:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or (paths.capath and any(Path(paths.capath).iterdir()))):
        context.load_verify_locations(certifi.where())  # an image without system certificates
    # In-house authorities seldom follow all of RFC 5280, which Python enforces from 3.13. And a
    # certificate in the settings is trusted, root or not.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.trusted_cas.strip():
        try:
            context.load_verify_locations(cadata=pem.find_certificates(settings.trusted_cas))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSettingsError("trustedCAs: not a list of certificates in PEM form") from error
    return context
