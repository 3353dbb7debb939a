"""The certificate of a server, and its change while connections are open.

    UnusableError   a pair that can't be served with; its text says why and holds nothing of the key

Each pair gets a context of its own, which is proven by a handshake in memory and then given to every connection
that begins, by the hook for server names. Connections that exist keep what they have agreed on, and a pair that is
refused leaves the one before in use. A new pair in the old context would not do: a context keeps one certificate
for each type of key, so after a change from ECDSA to RSA, as from our own certificates to those of cert-manager, it
would go on serving the old one.
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

log = logging.getLogger(__name__)

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""
_FLIGHTS: Final = 8
"""More than any handshake takes."""


class UnusableError(Exception):
    """Nobody can serve with it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate and key in PEM form; the server's certificate comes first in `chain`."""

    chain: bytes
    key: bytes = field(repr=False)


class ServerTls:
    """The context of a server, TLS 1.2 or newer, and what it serves with."""

    def __init__(self, changed: Callable[[float], None] = lambda _: None) -> None:
        self.context = _context()
        """What a server listens with; without a certificate every handshake fails."""
        self.context.sni_callback = self._choose
        self.expires_at = 0.0
        """In seconds since 1970; 0 while there is no certificate."""
        self._valid_from = 0.0
        self._changed = changed
        self._used: Pair | None = None
        self._serving: ssl.SSLContext | None = None
        self._refused = ""

    def trouble(self, now: float) -> str:
        """Why clients would not take the certificate; empty if they would."""
        if self._used is None:
            return f"there is no certificate: {self._refused or 'none was found yet'}"
        if not self._valid_from <= now < self.expires_at:
            return "the certificate is not valid at this time"
        return ""

    def take(self, read: Callable[[], Pair]) -> None:
        """Serve with the pair that is read from now on, if it can be; say once why not."""
        try:
            pair = read()
            if pair == self._used:
                return
            context, valid_from, expires_at = _proven(pair)
            if expires_at <= time.time():
                raise UnusableError("the certificate has ended")
        except UnusableError as error:
            self.refuse(str(error))
            return
        self._used, self._serving, self._refused = pair, context, ""
        self._valid_from, self.expires_at = valid_from, expires_at
        self._changed(expires_at)
        log.info("certificate in use", extra=logs.facts(expires_at=round(expires_at)))

    def refuse(self, why: str) -> None:
        """There is none to take; that is said once."""
        if why != self._refused:
            self._refused = why
            log.warning("the certificate is not taken", extra=logs.facts(reason=why, serving=self._used is not None))

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


def _proven(pair: Pair) -> tuple[ssl.SSLContext, float, float]:
    """A context with which a client that trusts exactly this certificate gets through; its first and last second."""
    server = _context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        _load(server, pair)
        client.load_verify_locations(cadata=pair.chain.decode("ascii"))
        found = _handshake(client, server)
        start, end = (ssl.cert_time_to_seconds(str(found[key])) for key in ("notBefore", "notAfter"))
    except (ssl.SSLError, ValueError, OSError, KeyError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
        raise UnusableError(f"certificate and key can't be served with: {reason}") from error
    return server, start, end


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """What the client sees of the server's certificate, after a handshake without a network."""
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
    """A path for what OpenSSL reads from files only, so that no key is written to a disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
