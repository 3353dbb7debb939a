"""The package endpoint in the operator's process: which versions are wanted, where they are, and the certificate.

Every replica serves, whoever leads: each lists the DynaKubes for itself, and makes itself a certificate that is
signed by the CA that the leader keeps. What is wanted is what their status says: they are listed now and then, and
at once when somebody asks for a version that is not known yet. A pod that starts as soon as its DynaKube is ready
asks before the next list, and would otherwise have lost its patience by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from oneagent.common import dynakube, logs, package_client
from oneagent.common.http import client as http_client
from oneagent.common.http import server_tls
from oneagent.common.http.download import Source
from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.errors import ApiError
from oneagent.common.tenant import client as tenant_client
from oneagent.operator import api, asking, package_server, tenant_poller
from oneagent.operator.certificates import cluster_state, x509
from oneagent.operator.package_server.cache import ShelfError

log = logging.getLogger(__name__)

_LIST_SECONDS: Final = 15.0
_LEAST_SECONDS: Final = 0.5
"""Between two lists, whatever is asked for."""
_LIFE_SECONDS: Final = 7 * 24 * 3600.0
_SKEW_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    namespace: str
    api_version: str
    service: str
    """By which callers reach this process; the certificate is for its names."""
    authority_secret: str
    folder: Path
    budget_bytes: int
    host: str
    port: int


class Serving:
    def __init__(self, server: api.Api, settings: Settings, metrics: package_server.PackageMetrics) -> None:
        self._api, self._settings = server, settings
        own = package_server.Settings(
            folder=settings.folder, budget_bytes=settings.budget_bytes, host=settings.host or None, port=settings.port
        )
        self._unknown = asyncio.Event()
        self._endpoint = package_server.PackageEndpoint(
            own, server, SignedCertificates(server, settings), metrics, unknown=self._unknown.set
        )

    async def run(self) -> None:
        """Until cancelled; then transfers get some time to end."""
        await self._start()
        try:
            while True:
                self._unknown.clear()
                try:
                    self._endpoint.want(await self._wanted())
                except ApiError as error:
                    log.warning("what is wanted is not known anew", extra=logs.facts(reason=error))
                await asyncio.sleep(_LEAST_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LIST_SECONDS):
                        await self._unknown.wait()
        finally:
            await self._endpoint.stop()

    async def _start(self) -> None:
        """At first there may be no CA yet: the leader makes it."""
        said = ""
        while True:
            try:
                await self._endpoint.start()
                return
            except (server_tls.UnusableError, ShelfError) as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("packages are not served yet", extra=logs.facts(reason=error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _wanted(self) -> list[package_server.Wanted]:
        resource = api.dynakubes(self._settings.api_version)
        found = []
        async for item in self._api.list(resource, self._settings.namespace):
            manifest = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
            try:
                kube = dynakube.from_manifest(manifest)
            except fields.FieldError:
                continue  # Its own condition says so.
            if kube.wanted_version and kube.api_url and not kube.package:
                origin = _Origin(self._api, self._settings.namespace, kube)
                technologies = kube.technologies or ("all",)
                found.append(package_server.Wanted(kube.name, kube.wanted_version, origin, kube.api_url, technologies))
        return found


@dataclass(frozen=True, slots=True)
class _Origin:
    """The tenant of one DynaKube, with the tokens as they are when it is asked."""

    api: api.Api
    namespace: str
    kube: dynakube.DynaKube

    async def __call__(self, package: package_client.Package) -> Source:
        inputs, _ = await tenant_poller.read_inputs(self.api, self.namespace, self.kube)
        if inputs.missing:
            raise http_client.InvalidSettingsError(inputs.missing)
        return tenant_client.package(
            asking.access(self.kube, inputs),
            package.version,
            flavor=package.flavor,
            technologies=package.technologies,
            machine=package.machine,
        )


class Secrets(Protocol):
    """What `SignedCertificates` needs of `api.Api`."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...


class SignedCertificates:
    """A `packages.Certificates`: signed by the cluster's own CA, and made anew in good time.

    When there is a new CA, callers learn of it from their namespaces' Secrets, which takes a moment. So the pair of
    the former one is served until the webhook has served the new one's everywhere, which comes after that moment
    and well before the former CA is no longer trusted. A process that starts meanwhile has only the new one's key.
    """

    def __init__(self, secrets: Secrets, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._secrets, self._settings, self._clock = secrets, settings, clock
        self._pair: x509.Pair | None = None
        self._renew_at = 0.0

    async def current(self) -> server_tls.Pair:
        try:
            found = await self._secrets.find(api.SECRETS, self._settings.authority_secret, self._settings.namespace)
        except ApiError as error:
            return self._last(str(error))
        record = cluster_state.record(found)
        if record.authority is None:
            return self._last(record.fault)
        if not self._is_good(record, record.authority.certificate):
            self._issue(record.authority)
        return self._last("")

    def _last(self, why: str) -> server_tls.Pair:
        if self._pair is None:
            raise server_tls.UnusableError(f"the CA is not to be had: {why}")
        return server_tls.Pair(self._pair.certificate.pem, self._pair.key_pem)

    def _is_good(self, record: cluster_state.Record, authority: x509.Certificate) -> bool:
        if self._pair is None:
            return False
        certificate, now = self._pair.certificate, self._clock()
        if certificate.signed_by(authority):
            return now < self._renew_at
        is_trusted = any(map(certificate.signed_by, record.former))
        return is_trusted and record.served is None and now < certificate.not_after - _SKEW_SECONDS

    def _issue(self, authority: x509.Pair) -> None:
        now = self._clock()
        short = f"{self._settings.service}.{self._settings.namespace}"
        hosts = (f"{short}.svc", short, f"{short}.svc.cluster.local")
        self._pair = x509.issue(authority, hosts, now, _LIFE_SECONDS, _SKEW_SECONDS)
        self._renew_at = now + (self._pair.certificate.not_after - now) * 2 / 3
