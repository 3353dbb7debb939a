"""The server's certificate, and its renewal while connections are open.

A live `SSLContext` takes a new pair at any time: handshakes from then on use it, and connections that exist keep
the keys they have agreed on. A pair that does not fit together, or cannot be had, leaves the one before in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509

from oneagent.common import logs

log = logging.getLogger(__name__)


class CertificateError(Exception):
    """There is no certificate that can be used; the text says why and holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair in PEM form; the server's certificate comes first in `chain`."""

    chain: bytes
    key: bytes = field(repr=False)


class Certificates(Protocol):
    """Who has the certificate, such as a Secret that is watched."""

    async def current(self) -> Certificate:
        """The newest pair; `CertificateError` while there is none. Asked every few seconds, so it is quick."""
        ...


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A pair in two files, as a mounted Secret or cert-manager keep it."""

    chain: Path
    key: Path

    async def current(self) -> Certificate:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Certificate:
        try:
            return Certificate(self.chain.read_bytes(), self.key.read_bytes())
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from error


class ServerTls:
    """The context of a server, TLS 1.2 or newer."""

    def __init__(self) -> None:
        self.context = _context()
        self.expires_at = 0.0
        self._used: Certificate | None = None
        self._refused: Certificate | None = None
        self._why = ""

    async def renew(self, certificates: Certificates) -> bool:
        """Take the newest pair; whether it is another one. `CertificateError` if it can't be used."""
        newest = await certificates.current()
        if newest == self._used:
            return False
        if newest == self._refused:
            raise CertificateError(self._why)
        try:
            # Into a context of nobody's first: half a pair in the live one would end every handshake.
            _load(_context(), newest)
            expires_at = x509.load_pem_x509_certificate(newest.chain).not_valid_after_utc.timestamp()
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            self._refused, self._why = newest, f"certificate and key can't be used: {reason}"
            raise CertificateError(self._why) from error
        _load(self.context, newest)
        self._used, self.expires_at = newest, expires_at
        log.info("certificate in use", extra=logs.facts(expires_at=round(expires_at)))
        return True


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, pair: Certificate) -> None:
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
