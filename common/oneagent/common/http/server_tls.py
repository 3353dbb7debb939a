"""TLS of a server, with a certificate that can be replaced while connections are open.

    UnusableCertificateError   a pair that cannot be served; the text contains nothing of the key

Each pair has its own context, which is tested by a handshake in memory. The hook for server names then gives it to
every new connection. Open connections keep their certificate, and a rejected pair leaves the previous one in use. A
new pair in the old context would not do, because a context holds one certificate for each type of key. After a change
from ECDSA to RSA, as from our own certificates to cert-manager's, it would still serve the old one.

Where clients have to prove themselves, the listener's context asks for their certificates, and each pair's context has
the authorities to verify them by. Until these are known, no client gets through.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from oneagent.common import logs
from oneagent.common.http import pem

log = logging.getLogger(__name__)

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, missing in Python."""
_FLIGHTS: Final = 8
"""More than any handshake needs."""


class UnusableCertificateError(Exception):
    """No server can use it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate and key in PEM form; the server's certificate comes first in `chain`."""

    chain: bytes
    key: bytes = field(repr=False)


class ServerTls:
    """The context of a server, TLS 1.2 or newer, and its certificate."""

    def __init__(self, changed: Callable[[float], None] = lambda _: None, *, verify_clients: bool = False) -> None:
        self.context = _context()
        """For the listener; without a certificate every handshake fails."""
        if verify_clients:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._verifies_clients, self._client_authorities = verify_clients, b""
        self.context.sni_callback = self._choose
        self.expires_at = 0.0
        """In seconds since 1970; 0 while there is no certificate."""
        self._valid_from = 0.0
        self._changed = changed
        self._pair: Pair | None = None
        self._serving: ssl.SSLContext | None = None
        self._rejection = self._clients_rejection = ""

    def problem(self, now: float) -> str:
        """Return the reason why clients reject the certificate; empty if they accept it."""
        if self._pair is None:
            return f"there is no certificate: {self._rejection or 'none has been read yet'}"
        if self._verifies_clients and not self._client_authorities:
            return f"there are no CA certificates of clients: {self._clients_rejection or 'none have been read yet'}"
        if not self._valid_from <= now < self.expires_at:
            return "the certificate is not valid at this time"
        return ""

    def load(self, read: Callable[[], Pair]) -> None:
        """Serve the pair that is read, or log once why it cannot be used."""
        try:
            pair = read()
            if pair == self._pair:
                return
            context, valid_from, expires_at = self._create(pair, self._client_authorities)
            if expires_at <= time.time():
                raise UnusableCertificateError("the certificate has expired")
        except UnusableCertificateError as error:
            self.reject(str(error))
            return
        self._pair, self._serving, self._rejection = pair, context, ""
        self._valid_from, self.expires_at = valid_from, expires_at
        self._changed(expires_at)
        log.info("certificate loaded", extra=logs.fields(expires_at=round(expires_at)))

    def load_client_authorities(self, read: Callable[[], bytes]) -> None:
        """Verify clients by the certificates that are read, in PEM form, or log once why that cannot be."""
        try:
            authorities = read()
            if authorities == self._client_authorities:
                return
            if self._pair is None:
                _trust(_context(), authorities)
            else:
                self._serving, *_ = self._create(self._pair, authorities)
        except UnusableCertificateError as error:
            if str(error) != self._clients_rejection:
                self._clients_rejection = str(error)
                log.warning("CA certificates of clients rejected", extra=logs.fields(reason=error))
            return
        self._client_authorities, self._clients_rejection = authorities, ""
        log.info("CA certificates of clients loaded")

    def _create(self, pair: Pair, client_authorities: bytes) -> tuple[ssl.SSLContext, float, float]:
        context, valid_from, expires_at = _test_context(pair)
        if self._verifies_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            if client_authorities:
                _trust(context, client_authorities)
        return context, valid_from, expires_at

    def reject(self, why: str) -> None:
        """Log once why there is no new certificate."""
        if why != self._rejection:
            self._rejection = why
            log.warning("certificate rejected", extra=logs.fields(reason=why, serving=self._pair is not None))

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        if self._serving is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._serving
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _test_context(pair: Pair) -> tuple[ssl.SSLContext, float, float]:
    """Return a context that a client with this certificate as CA accepts, and the times of the validity."""
    server = _context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        _load(server, pair)
        client.load_verify_locations(cadata=pair.chain.decode("ascii"))
        peer = _handshake(client, server)
        start, end = (ssl.cert_time_to_seconds(str(peer[key])) for key in ("notBefore", "notAfter"))
    except (ssl.SSLError, ValueError, OSError, KeyError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
        raise UnusableCertificateError(f"certificate and key cannot be used: {reason}") from error
    return server, start, end


def _trust(context: ssl.SSLContext, authorities: bytes) -> None:
    """`UnusableCertificateError`."""
    try:
        context.load_verify_locations(cadata=pem.find_certificates(authorities.decode(errors="replace")))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableCertificateError("they are no certificates in PEM form") from error


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """Return the server's certificate as the client sees it, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[0].getpeercert() or {}


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    with _in_memory(pair.chain) as chain, _in_memory(pair.key) as key:
        # Without a callback an encrypted key would make OpenSSL ask on the terminal.
        context.load_cert_chain(chain, key, password=lambda: "")


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads files only; no key is written to a disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
