"""Serving certificate of the package server, signed by the CA that the leader manages for the webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from oneagent.common.http import server_tls
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.certificates import cluster_state, x509

_LIFETIME_SECONDS: Final = 7 * 24 * 3600.0
_SKEW_SECONDS: Final = 600.0


class SecretReader(Protocol):
    """The part of `api.Api` that is used here."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...


class ServingCertificates:
    """Issues a certificate for `hosts` and renews it at two thirds of its life.

    Clients learn of a new CA from their namespaces' Secrets, which takes a moment. So the certificate of the former
    CA is served until the webhook serves the new one's everywhere. That is after this moment, and well before the
    former CA is no longer trusted. A process that starts meanwhile has only the new CA's key.
    """

    def __init__(
        self,
        secrets: SecretReader,
        namespace: str,
        authority_secret: str,
        hosts: Sequence[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`authority_secret` holds the CA, in `namespace`."""
        self._secrets, self._namespace, self._authority_secret = secrets, namespace, authority_secret
        self._hosts, self._clock = hosts, clock
        self._pair: x509.Pair | None = None
        self._renew_at = 0.0

    async def current(self) -> server_tls.Pair:
        """Return the current pair, renewed if due; `UnusableError` without a CA."""
        try:
            secret = await self._secrets.find(api.SECRETS, self._authority_secret, self._namespace)
        except ApiError as error:
            return self._last(str(error))
        record = cluster_state.record(secret)
        if record.authority is None:
            return self._last(record.problem)
        if not self._is_usable(record, record.authority.certificate):
            self._issue(record.authority)
        return self._last("")

    def _last(self, reason: str) -> server_tls.Pair:
        if self._pair is None:
            raise server_tls.UnusableCertificateError(f"CA certificate not available: {reason}")
        return server_tls.Pair(self._pair.certificate.pem, self._pair.key_pem)

    def _is_usable(self, record: cluster_state.Record, authority: x509.Certificate) -> bool:
        if self._pair is None:
            return False
        certificate, now = self._pair.certificate, self._clock()
        if certificate.signed_by(authority):
            return now < self._renew_at
        is_trusted = any(map(certificate.signed_by, record.former))
        return is_trusted and record.served is None and now < certificate.not_after - _SKEW_SECONDS

    def _issue(self, authority: x509.Pair) -> None:
        now = self._clock()
        self._pair = x509.issue(authority, self._hosts, now, _LIFETIME_SECONDS, _SKEW_SECONDS)
        self._renew_at = now + (self._pair.certificate.not_after - now) * 2 / 3
