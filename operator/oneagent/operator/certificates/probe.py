"""Probes which certificate the webhook serves, by a TLS handshake with every endpoint of its Service.

The Service's own address would reach only one of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.operator import api
from oneagent.operator.certificates.settings import CertificateSettings

SERVICES: Final = api.Resource("v1", "Service", "services")
SLICES: Final = api.Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")

_SERVICE_LABEL: Final = "kubernetes.io/service-name"
_TIMEOUT_SECONDS: Final = 3.0


class EndpointProbe:
    """A `controller.Probe`."""

    def __init__(self, client: api.Api, settings: CertificateSettings) -> None:
        self._api, self._settings = client, settings

    async def __call__(self, fingerprint: bytes) -> bool:
        """True if there are endpoints and all serve the certificate with this SHA-256 fingerprint."""
        service = await self._api.find(SERVICES, self._settings.service, self._settings.namespace)
        if service is None:
            return False
        name = _port_name(service, self._settings.port)
        labels = f"{_SERVICE_LABEL}={self._settings.service}"
        slices = self._api.list(SLICES, self._settings.namespace, labels=labels)
        addresses = {address async for one in slices for address in _addresses(one, name)}
        fingerprints = await asyncio.gather(*(self._read_fingerprint(host, port) for host, port in addresses))
        return bool(fingerprints) and all(one == fingerprint for one in fingerprints)

    async def _read_fingerprint(self, host: str, port: int) -> bytes | None:
        """Return the fingerprint of an endpoint's certificate; None if it does not answer."""
        # Not verified here: the caller compares the fingerprint.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=self._settings.hosts[1]
                )
        except (TimeoutError, OSError):
            return None
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return hashlib.sha256(certificate).digest() if certificate else None
        finally:
            writer.transport.abort()


def _port_name(service: Mapping[str, Any], port: int) -> str:
    """Return the name of a Service's port in its EndpointSlices."""
    ports = service["spec"].get("ports") or ()
    return next((one.get("name") or "" for one in ports if one["port"] == port), "")


def _addresses(endpoint_slice: Mapping[str, Any], port_name: str) -> Iterator[tuple[str, int]]:
    """Yield the addresses of serving endpoints; a terminating one serves until it is gone."""
    ports = [one["port"] for one in endpoint_slice.get("ports") or () if (one.get("name") or "") == port_name]
    for endpoint in endpoint_slice.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        serving = conditions.get("serving")
        if (conditions.get("ready") is not False) if serving is None else serving:
            yield from ((address, port) for address in endpoint["addresses"] for port in ports)
