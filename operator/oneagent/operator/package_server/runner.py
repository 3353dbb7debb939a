"""Lifecycle of the package server in the operator's process: start, the list of desired versions, shutdown.

Every replica serves, not only the leader. Each lists the DynaKubes for itself and issues its own certificate. The
desired versions come from the DynaKubes' status. They are listed at intervals, and at once after a request for an
unknown version: a pod that starts as soon as its DynaKube is ready would time out before the next list.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import backoff, dynakube, logs, package_client
from oneagent.common.dynakube.network_defaults import NO_DEFAULTS, NetworkDefaults
from oneagent.common.http import server_tls
from oneagent.common.http.download import Source
from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.errors import ApiError
from oneagent.common.tenant import client as tenant_client
from oneagent.common.tenant import inputs
from oneagent.operator import api, package_server, tenant_poller
from oneagent.operator.certificates.serving_cert import ServingCertificates
from oneagent.operator.package_server.cache import CacheError

log = logging.getLogger(__name__)

_LIST_SECONDS: Final = 15.0
_MIN_LIST_SECONDS: Final = 0.5
"""Shortest interval between two lists, whatever clients request."""
_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    namespace: str
    api_version: str
    service: str
    """Service of this process; the certificate is for its names."""
    authority_secret: str
    directory: Path
    budget_bytes: int
    host: str
    port: int
    network_defaults: NetworkDefaults = NO_DEFAULTS

    @property
    def hosts(self) -> tuple[str, ...]:
        short = f"{self.service}.{self.namespace}"
        return f"{short}.svc", short, f"{short}.svc.cluster.local"


class PackageServerRunner:
    def __init__(self, server: api.Api, settings: RunnerSettings, metrics: package_server.PackageMetrics) -> None:
        self._api, self._settings = server, settings
        own = package_server.PackageServerSettings(
            directory=settings.directory,
            budget_bytes=settings.budget_bytes,
            host=settings.host or None,
            port=settings.port,
        )
        certificates = ServingCertificates(server, settings.namespace, settings.authority_secret, settings.hosts)
        self._unknown_requested = asyncio.Event()
        self._server = package_server.PackageServer(
            own, server, certificates, metrics, on_unknown=self._unknown_requested.set
        )

    async def run(self) -> None:
        """Serve until cancelled; then running transfers get some time to end."""
        await self._start()
        failures = 0
        try:
            while True:
                self._unknown_requested.clear()
                try:
                    self._server.set_desired(await self._list_desired())
                    failures = 0
                except Exception as error:  # The packages of the last list stay available.
                    failures += 1
                    log.warning(
                        "cannot refresh the list of requested packages",
                        extra=logs.fields(reason=repr(error)),
                        exc_info=None if isinstance(error, ApiError) else error,
                    )
                    await asyncio.sleep(backoff.exponential(failures, _MIN_LIST_SECONDS, _LIST_SECONDS))
                    continue
                await asyncio.sleep(_MIN_LIST_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LIST_SECONDS):
                        await self._unknown_requested.wait()
        finally:
            await self._server.stop()

    async def _start(self) -> None:
        """Retry until there is a CA, which the leader creates."""
        last_reason = ""
        while True:
            try:
                await self._server.start()
                return
            except (server_tls.UnusableCertificateError, CacheError) as error:
                if str(error) != last_reason:
                    last_reason = str(error)
                    log.warning("package server not started, retrying", extra=logs.fields(reason=error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _list_desired(self) -> list[package_server.DesiredVersion]:
        resource = api.dynakubes(self._settings.api_version)
        versions = []
        async for item in self._api.list(resource, self._settings.namespace):
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
            try:
                kube = self._settings.network_defaults.apply(dynakube.from_object(obj))
            except fields.FieldError:
                continue  # Reported by the DynaKube's own condition.
            except Exception:  # One DynaKube's error must not keep the packages of others away.
                log.exception("DynaKube not read", extra=logs.fields(dynakube=obj["metadata"]["name"]))
                continue
            if kube.decided_version and kube.api_url and not kube.package:
                origin = _Origin(self._api, self._settings.namespace, kube)
                technologies, tenant = kube.technologies or ("all",), " ".join(kube.tenant_identity)
                versions.append(
                    package_server.DesiredVersion(
                        kube.name, kube.decided_version, origin, tenant, technologies, kube.api_url
                    )
                )
        return versions


@dataclass(frozen=True, slots=True)
class _Origin:
    """The tenant of one DynaKube; tokens are read at each call."""

    api: api.Api
    namespace: str
    kube: dynakube.DynaKube

    async def __call__(self, package: package_client.Package) -> Source:
        objects = await tenant_poller.read_inputs(self.api, self.namespace, self.kube)
        return tenant_client.package_source(
            inputs.tenant_access(self.kube, objects),
            package.version,
            flavor=package.flavor,
            technologies=package.technologies,
            machine=package.machine,
        )
