"""What the operator that leads does: watches, a worker for each DynaKube, and the mapper of namespaces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from oneagent.common import manifests, mapping
from oneagent.common.names import DynaKubeName
from oneagent.operator import api, asking, events
from oneagent.operator.certificates import settings as certificates_settings
from oneagent.operator.certificates.endpoints import Endpoints
from oneagent.operator.certificates.keeper import Keeper, Metrics
from oneagent.operator.concerns import connection, injection, namespaces, sections, tokens, versions
from oneagent.operator.hostagents.concern import HostAgents
from oneagent.operator.mapper import Mapper
from oneagent.operator.observed import Observed
from oneagent.operator.watching import Watching
from oneagent.operator.worker import Concern, Worker

_TENANTS_AT_ONCE: Final = 16


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


class Controller:
    """One term of leading: make a new one for the next."""

    def __init__(self, server: api.Api, settings: Settings, certificate_metrics: Metrics) -> None:
        self._api, self._settings, self._certificate_metrics = server, settings, certificate_metrics
        self._resource = api.dynakubes(settings.api_version)
        self.observed = Observed()
        self._events = events.Events(server)
        self._limit = asking.Limit()
        self._threads = ThreadPoolExecutor(_TENANTS_AT_ONCE, thread_name_prefix="tenant")
        self._mapper = Mapper(server, self.observed, self.wake, self._leave)
        self._injection = injection.Injection(self._mapper, settings.package_url)
        self._concerns: Sequence[Concern] = (
            tokens.Tokens(),
            connection.Connection(),
            versions.CodeModules(),
            versions.HostAgent(),
            HostAgents(settings.operator_version),
            namespaces.Namespaces(self._mapper),
            self._injection,
            sections.Sections(),
        )
        self._workers: dict[DynaKubeName, Worker] = {}
        self._group: asyncio.TaskGroup | None = None
        self._certificates_awake = asyncio.Event()
        self._watching = Watching(server, settings.namespace, self._resource, self.observed, self)

    async def run(self) -> None:
        """Until cancelled; an error of any part ends all of them."""
        # Before anybody decides anything, everything has been seen once.
        await self._watching.list_all()
        self._mapper.begin(self._claims())
        async with asyncio.TaskGroup() as group:
            self._group = group
            for name in list(self.observed.dynakubes):
                self.dynakube_changed(name)
            group.create_task(self._watching.run())
            group.create_task(self._mapper.run())
            if self._settings.certificates is not None:
                group.create_task(self._keep_certificates(self._settings.certificates))

    def _claims(self) -> dict[DynaKubeName, mapping.Claim | None]:
        """Of all DynaKubes whose claim can be read; of the others it stays open."""
        found: dict[DynaKubeName, mapping.Claim | None] = {}
        for name, manifest in self.observed.dynakubes.items():
            if "deletionTimestamp" in manifest["metadata"]:
                continue
            with contextlib.suppress(manifests.FieldError):
                claim = mapping.claim(manifest, self._settings.namespace)
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

    async def _keep_certificates(self, settings: certificates_settings.Settings) -> None:
        probe = Endpoints(self._api, settings)
        keeper = Keeper(self._api, settings, probe, metrics=self._certificate_metrics)
        while True:
            seconds = await keeper.round()
            self._certificates_awake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._certificates_awake.wait(), seconds)

    def object_changed(self, kind: str, name: str) -> None:
        wanted = self._settings.certificates
        if kind == "Secret" and wanted is not None and name in (wanted.secret, wanted.authority_secret):
            self._certificates_awake.set()
        for worker in self._workers.values():
            if kind not in ("Secret", "ConfigMap") or (kind, name) in worker.uses:
                worker.wake()

    def _worker(self, name: DynaKubeName) -> Worker:
        return Worker(
            name,
            self._resource,
            self._settings.namespace,
            self._api,
            self.observed,
            self._concerns,
            self._limit,
            self._threads,
            self._events.say,
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
