"""What the operator that leads does: watches, a worker for each DynaKube, the mapper of namespaces, and some chores."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import logs
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, asking, events
from oneagent.operator.cache import Cache
from oneagent.operator.certificates import settings as certificates_settings
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.probe import Endpoints
from oneagent.operator.dynakube_worker import DynaKubeWorker
from oneagent.operator.host_agents.reconciler import HostAgents
from oneagent.operator.namespace_mapper import Mapper
from oneagent.operator.periodic import Chore
from oneagent.operator.reconcilers import (
    injection_secret,
    namespaces,
    tenant_connection,
    tokens,
    unsupported_sections,
    versions,
)
from oneagent.operator.reconcilers.context import Reconciler
from oneagent.operator.startup_taint.controller import StartupTaintController
from oneagent.operator.startup_taint.taint import Taint
from oneagent.operator.storage_migration import Storage
from oneagent.operator.watches import Watches

log = logging.getLogger(__name__)

_TENANTS_AT_ONCE: Final = 16
_LIST_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    namespace: str
    api_version: str
    """Of DynaKubes, as `v1beta6`."""
    package_url: str
    """Where pods without CSI fetch their agent."""
    operator_version: str
    certificates: certificates_settings.Settings | None
    """Of the webhook; None if somebody else sees to them."""
    registries: Registries = field(default_factory=Registries)
    """Which hosts are asked for images."""
    startup_taint: Taint | None = None
    """Taken off nodes that have what DynaKubes want; None to leave nodes alone."""
    startup_patience_seconds: float = 600.0
    """After which an Event tells why a node still has the taint."""


class Controller:
    """One term of leading: make a new one for the next."""

    def __init__(self, server: api.Api, settings: Settings, certificate_metrics: Metrics) -> None:
        self._api, self._settings, self._certificate_metrics = server, settings, certificate_metrics
        self._resource = api.dynakubes(settings.api_version)
        self.observed = Cache()
        self._events = events.Events(server)
        self._limit = asking.Limit()
        self._threads = ThreadPoolExecutor(_TENANTS_AT_ONCE, thread_name_prefix="tenant")
        self._mapper = Mapper(server, self.observed, self.wake, self._leave)
        # The package endpoint's certificate is signed by the webhook's CA.
        self._authority = certificates_settings.Settings(namespace=settings.namespace).authority_secret
        self._injection = injection_secret.Injection(self._mapper, settings.package_url, self._authority)
        self._reconcilers: Sequence[Reconciler] = (
            tokens.Tokens(),
            tenant_connection.Connection(),
            versions.CodeModules(),
            versions.HostAgent(),
            HostAgents(settings.operator_version),
            namespaces.Namespaces(self._mapper),
            self._injection,
            unsupported_sections.Sections(),
        )
        self._workers: dict[DynaKubeName, DynaKubeWorker] = {}
        self._group: asyncio.TaskGroup | None = None
        self._certificates = self._keeping_certificates()
        self._care = self._caring()
        self._nodes = Chore(self._care.round) if self._care else None
        self._watching = Watches(
            server, settings.namespace, self._resource, self.observed, self, csi_nodes=self._care is not None
        )
        self.problem = "not everything has been listed yet"
        """Why this does not do its work yet, or ''."""

    async def run(self) -> None:
        """Until cancelled; an error of any part ends all of them."""
        async with asyncio.TaskGroup() as group:
            # First of all: DynaKubes that are stored in an older version can only be listed with the help of the
            # webhook, which needs its certificate for that.
            if self._certificates is not None:
                group.create_task(self._certificates.run())
            # Before anybody decides anything, everything has been seen once.
            await self._list_all()
            self._mapper.begin(self._claims())
            self._group = group
            for name in list(self.observed.dynakubes):
                self.dynakube_changed(name)
            group.create_task(self._watching.run())
            group.create_task(self._mapper.run())
            for chore in (self._nodes, Chore(Storage(self._api).round)):
                if chore is not None:
                    group.create_task(chore.run())

    async def _list_all(self) -> None:
        while self.problem:
            try:
                await self._watching.list_all()
                self.problem = ""
            except api.ApiError as error:
                self.problem = f"not everything can be listed: {error}"
                log.warning("not everything can be listed", extra=logs.facts(reason=error))
                await asyncio.sleep(_LIST_PAUSE_SECONDS)

    def _claims(self) -> dict[DynaKubeName, namespace_mapping.Claim | None]:
        """Of all DynaKubes whose claim can be read; of the others it stays open."""
        found: dict[DynaKubeName, namespace_mapping.Claim | None] = {}
        for name, manifest in self.observed.dynakubes.items():
            if "deletionTimestamp" in manifest["metadata"]:
                continue
            with contextlib.suppress(fields.FieldError):
                claim = namespace_mapping.claim(manifest, self._settings.namespace)
                found[name] = claim if claim.selectors else None
        return found

    def wake(self, name: DynaKubeName) -> None:
        if worker := self._workers.get(name):
            worker.wake()

    def dynakube_changed(self, name: DynaKubeName) -> None:
        if name in self._workers:
            self._workers[name].wake()
        elif name in self.observed.dynakubes and self._group is not None:
            self._workers[name] = self._worker(name)
            self._group.create_task(self._work(name), name=f"dynakube-{name}")

    def namespace_changed(self, name: str) -> None:
        self._mapper.look(name)

    def object_changed(self, kind: str, name: str) -> None:
        wanted = self._settings.certificates
        if self._certificates and wanted and kind == "Secret" and name in (wanted.secret, wanted.authority_secret):
            self._certificates.wake()
        if self._care and self._nodes and kind in ("Node", "CSINode"):
            if kind == "Node":
                self._care.changed(name)
            self._nodes.wake()
        if kind == "CSINode":
            return  # A matter of node care only.
        for worker in self._workers.values():
            inputs = worker.inputs | {("Secret", self._authority)}
            if kind not in ("Secret", "ConfigMap") or (kind, name) in inputs:
                worker.wake()

    def _keeping_certificates(self) -> Chore | None:
        if (wanted := self._settings.certificates) is None:
            return None
        probe = Endpoints(self._api, wanted)
        return Chore(CertificateController(self._api, wanted, probe, metrics=self._certificate_metrics).round)

    def _caring(self) -> StartupTaintController | None:
        if (taint := self._settings.startup_taint) is None:
            return None
        patience = self._settings.startup_patience_seconds
        return StartupTaintController(
            self._api, self._settings.namespace, self.observed, taint, self._events.say, patience_seconds=patience
        )

    def _worker(self, name: DynaKubeName) -> DynaKubeWorker:
        return DynaKubeWorker(
            name,
            self._resource,
            self._settings.namespace,
            self._api,
            self.observed,
            self._reconcilers,
            self._limit,
            self._threads,
            self._events.say,
            self._settings.registries,
        )

    async def _work(self, name: DynaKubeName) -> None:
        try:
            await self._workers[name].run()
        finally:
            del self._workers[name]
        self._mapper.forget(name)
        if name in self.observed.dynakubes:  # Made anew meanwhile.
            self.dynakube_changed(name)

    async def _leave(self, namespace: str) -> None:
        await self._injection.leave(self._api, namespace)
