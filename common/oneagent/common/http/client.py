"""HTTP client with the cluster's proxy, its certificate authorities and time limits.

Only the settings count. Proxies and certificate stores from environment variables are ignored, because the
same DynaKube must behave the same on every node. A request that began with TLS is never redirected to one
without, and a redirect to another host does not take the token along.

    InvalidSettingsError     a setting cannot be used; names the field, and never shows a password
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import certifi
import httpx2 as httpx

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
    """Limit for each of: connect, send, and wait for the next bytes."""

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


def create(settings: HttpSettings, headers: dict[str, str] | None = None) -> httpx.Client:
    """Create a client, to be closed after use. Costs some 20 ms, mostly for reading certificates."""
    context = _tls_context(settings)
    direct = httpx.HTTPTransport(verify=context, trust_env=False)
    transport: httpx.BaseTransport = direct
    if settings.proxy:
        own_tls = context if httpx.URL(settings.proxy).scheme == "https" else None
        proxy = httpx.Proxy(settings.proxy, ssl_context=own_tls)
        proxied = httpx.HTTPTransport(verify=context, trust_env=False, proxy=proxy)
        transport = _ProxyRouter(direct, proxied, settings.no_proxy)
    return httpx.Client(
        transport=transport,
        trust_env=False,
        timeout=settings.timeout_seconds,
        headers=headers,
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
        event_hooks={"response": [_refuse_downgrade]},
    )


def _refuse_downgrade(response: httpx.Response) -> None:
    """Refuse a redirect from https to http. Runs before the redirect is followed."""
    request = response.request
    if response.has_redirect_location and request.url.scheme == "https":
        target = request.url.join(response.headers["Location"])
        if target.scheme != "https":
            raise httpx.UnsupportedProtocol("a redirect from https to http", request=request)


class _ProxyRouter(httpx.BaseTransport):
    """Sends each request, redirected ones too, directly or through the proxy."""

    def __init__(self, direct: httpx.HTTPTransport, proxied: httpx.HTTPTransport, no_proxy: tuple[str, ...]) -> None:
        self._direct, self._proxied, self._no_proxy = direct, proxied, no_proxy

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        chosen = self._direct if bypasses_proxy(request.url.host, self._no_proxy) else self._proxied
        return chosen.handle_request(request)

    def close(self) -> None:
        self._direct.close()
        self._proxied.close()


def bypasses_proxy(host: str, no_proxy: tuple[str, ...]) -> bool:
    """Return True if `host` is reached without the proxy. As in Go, `example.com` covers all names below it."""
    host = host.lower()
    return any(_matches(entry.strip().lower(), host) for entry in no_proxy)


def _matches(entry: str, host: str) -> bool:
    if entry.count(":") == 1:  # host:port; every port of the host is meant
        entry = entry.partition(":")[0]
    if not entry:
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
            context.load_verify_locations(cadata=settings.trusted_cas)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSettingsError("trustedCAs: not a list of certificates in PEM form") from error
    return context
