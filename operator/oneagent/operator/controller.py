"""Work of the leader: watches, a worker for each DynaKube, the namespace mapper and periodic tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oneagent.common import identifiers
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.network_defaults import NetworkDefaults
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.watch import Watch
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, events, tenant_poller
from oneagent.operator.cache import Cache
from oneagent.operator.certificates import ca_bundle
from oneagent.operator.certificates import settings as certificates_settings
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.probe import EndpointProbe
from oneagent.operator.certificates.reachability import WebhookReachability
from oneagent.operator.dynakube_worker import DynaKubeWorker
from oneagent.operator.host_agents.reconciler import HostAgentReconciler
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.periodic import PeriodicTask
from oneagent.operator.rate_limit import RateLimiter
from oneagent.operator.reconcile_context import Reconciler
from oneagent.operator.reconcilers import (
    agent_rollout,
    driver_needed,
    exporter,
    injection_secret,
    namespaces,
    node_access,
    pull_secret,
    tenant_config,
    tenant_connection,
    tokens,
    unsupported_sections,
    versions,
)
from oneagent.operator.rollout_events import RolloutEvents
from oneagent.operator.startup_taint.controller import StartupTaintController
from oneagent.operator.startup_taint.taint import Taint
from oneagent.operator.storage_migration import StorageMigration
from oneagent.operator.watches import Watches

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    namespace: str
    api_version: str
    """Version of DynaKubes, without the group."""
    package_url: str
    """Package server, for pods without CSI; empty for none."""
    operator_version: str
    certificates: certificates_settings.CertificateSettings | None
    """Of the webhook; None if the operator does not manage them."""
    registries: Registries = field(default_factory=Registries)
    """Registries that may be contacted for images."""
    network_defaults: NetworkDefaults = field(default_factory=NetworkDefaults)
    """Proxy and CA bundle of DynaKubes that name none."""
    pull_secrets: Sequence[str] = ()
    """Secrets in `namespace` with credentials for the image of pods' init containers."""
    startup_taint: Taint | None = None
    """Removed from nodes that are ready for DynaKubes; None to leave nodes alone."""
    opentelemetry: bool = False
    """OpenTelemetryInjections are watched."""
    startup_taint_timeout_seconds: float = 600.0
    """Time after which an Event reports why a node still has the taint."""


class Controller:
    """For one term of leadership; a new leader makes a new one."""

    def __init__(self, server: api.Api, settings: ControllerSettings, certificate_metrics: Metrics) -> None:
        self._api, self._settings, self._certificate_metrics = server, settings, certificate_metrics
        self._resource = api.dynakubes(settings.api_version)
        self.cache = Cache()
        self._events = events.Recorder(server)
        self._limit = RateLimiter()
        self._slots = tenant_poller.create_slots()
        self._mapper = NamespaceMapper(server, self.cache, self.wake, self._release)
        # The package server's certificate is signed by the webhook's CA.
        self._authority = certificates_settings.CertificateSettings(namespace=settings.namespace).authority_secret
        publisher = ca_bundle.BundlePublisher(server, settings.namespace, self._authority)
        self._ca_bundle = PeriodicTask(publisher.reconcile)
        self._injection = injection_secret.InjectionSecrets(self._mapper, settings.package_url, self._authority)
        self._pull_secrets = pull_secret.PullSecrets(self._mapper, settings.pull_secrets)
        self._host_agents = HostAgentReconciler(settings.operator_version)
        self._node_access = node_access.NodeAccess(server, settings.namespace, self.cache, settings.network_defaults)
        self._access_resync = PeriodicTask(self._node_access.resync)
        self._reconcilers: Sequence[Reconciler] = (
            # First: nodes want to read the tokens as soon as they see the DynaKube.
            self._node_access,
            tokens.Tokens(),
            tenant_connection.Connection(),
            versions.CodeModules(),
            agent_rollout.AgentRollout(),
            tenant_config.TenantConfiguration(),
            versions.HostAgent(),
            self._host_agents,
            namespaces.Namespaces(self._mapper),
            self._injection,
            self._pull_secrets,
            unsupported_sections.UnsupportedSections(),
        )
        self._injection_reconcilers: Sequence[Reconciler] = (
            self._node_access,
            exporter.Exporter(),
            versions.CodeModules(),
            agent_rollout.AgentRollout(),
            namespaces.Namespaces(self._mapper),
            driver_needed.DriverNeeded(),
        )
        self._workers: dict[DynaKubeName, DynaKubeWorker] = {}
        self._group: asyncio.TaskGroup | None = None
        self._reachability: WebhookReachability | None = None
        self._certificates = self._certificate_task()
        self._startup_taint = self._startup_taint_controller()
        self._nodes = PeriodicTask(self._startup_taint.reconcile) if self._startup_taint else None
        self._rollout_events = PeriodicTask(RolloutEvents(self.cache, self._events.record, self.wake).reconcile)
        self._watches = Watches(
            server,
            settings.namespace,
            self._resource,
            self.cache,
            self,
            startup_taint=self._startup_taint is not None,
            injections=settings.opentelemetry,
        )

    @property
    def problem(self) -> str:
        """Reason why the controller is not ready; empty if it is."""
        return self._watches.problem or (self._reachability.problem if self._reachability is not None else "")

    @property
    def watches(self) -> Sequence[Watch[Any]]:
        return self._watches.all

    async def run(self) -> None:
        """Run until cancelled; an error of any part ends all."""
        async with asyncio.TaskGroup() as group:
            # First: listing DynaKubes that are stored in an older version needs the webhook's conversion, and the
            # webhook needs its certificate.
            if self._certificates is not None:
                group.create_task(self._certificates.run())
            if self._reachability is not None:
                group.create_task(self._reachability.run())
            group.create_task(self._watches.run())
            group.create_task(self._events.run())
            # No decision before everything has been listed once.
            await self._watches.wait_until_synced()
            self._mapper.load(self._claims())
            self._group = group
            for name in list(self.cache.dynakubes):
                self.dynakube_changed(name)
            group.create_task(self._mapper.run())
            migration = PeriodicTask(StorageMigration(self._api).reconcile)
            for task in (self._nodes, self._rollout_events, self._access_resync, self._ca_bundle, migration):
                if task is not None:
                    group.create_task(task.run())

    def _claims(self) -> dict[DynaKubeName, namespace_mapping.Claim | None]:
        """Return the claims of all DynaKubes whose selectors are valid."""
        claims: dict[DynaKubeName, namespace_mapping.Claim | None] = {}
        for name, obj in self.cache.dynakubes.items():
            if "deletionTimestamp" in obj["metadata"]:
                continue
            with contextlib.suppress(fields.FieldError):
                claim = namespace_mapping.claim(obj, self._settings.namespace)
                claims[name] = claim if claim.selectors else None
        return claims

    def wake(self, name: DynaKubeName) -> None:
        if worker := self._workers.get(name):
            worker.wake()

    def dynakube_changed(self, name: DynaKubeName) -> None:
        if name in self._workers:
            self._workers[name].wake()
        elif name in self.cache.dynakubes and self._group is not None:
            self._workers[name] = self._worker(name)
            self._group.create_task(self._run_worker(name), name=f"dynakube-{name}")

    def namespace_changed(self, name: str) -> None:
        self._mapper.on_namespace(name)

    def object_changed(self, kind: str, name: str) -> None:
        settings = self._settings.certificates
        if (
            self._certificates
            and settings
            and kind == "Secret"
            and name in (settings.secret, settings.authority_secret)
        ):
            self._certificates.wake()
        if (kind, name) in (("Secret", self._authority), ("ConfigMap", ca_bundle.NAME)):
            self._ca_bundle.wake()
        if self._startup_taint and self._nodes and kind in ("Node", "CSINode", "DriverPod"):
            if kind == "Node":
                self._startup_taint.on_node(name)
            self._nodes.wake()
        if kind in ("CSINode", "DriverPod", "NodeReport"):
            return  # Matters to the startup taint, and to Events only.
        shared = {("Secret", name) for name in (self._authority, *self._settings.pull_secrets)}
        for worker in self._workers.values():
            inputs = worker.inputs | shared
            if kind not in ("Secret", "ConfigMap") or (kind, name) in inputs:
                worker.wake()

    def cluster_restored(self) -> None:
        """Write everything once more, as after a start."""
        self._injection.secrets.forget_written()
        self._pull_secrets.secrets.forget_written()
        self._host_agents.forget_applied()
        self._access_resync.wake()
        for worker in self._workers.values():
            worker.wake()

    def _certificate_task(self) -> PeriodicTask | None:
        if (settings := self._settings.certificates) is None:
            return None
        probe = EndpointProbe(self._api, settings)
        controller = CertificateController(self._api, settings, probe, metrics=self._certificate_metrics)
        self._reachability = WebhookReachability(self._api, settings, lambda: controller.is_settled)
        return PeriodicTask(controller.reconcile)

    def _startup_taint_controller(self) -> StartupTaintController | None:
        if (taint := self._settings.startup_taint) is None:
            return None
        timeout = self._settings.startup_taint_timeout_seconds
        return StartupTaintController(self._api, self.cache, taint, self._events.record, timeout_seconds=timeout)

    def _worker(self, name: DynaKubeName) -> DynaKubeWorker:
        is_injection = self.cache.dynakubes[name]["kind"] == identifiers.INJECTION_KIND
        return DynaKubeWorker(
            name,
            api.INJECTIONS if is_injection else self._resource,
            self._settings.namespace,
            self._api,
            self.cache,
            self._injection_reconcilers if is_injection else self._reconcilers,
            self._limit,
            self._slots,
            self._events.record,
            self._settings.registries,
            network_defaults=self._settings.network_defaults,
        )

    async def _run_worker(self, name: DynaKubeName) -> None:
        try:
            await self._workers[name].run()
        finally:
            del self._workers[name]
        self._mapper.forget(name)
        self._access_resync.wake()
        if name in self.cache.dynakubes:  # Created again meanwhile.
            self.dynakube_changed(name)

    async def _release(self, namespace: str) -> None:
        await self._injection.secrets.remove_secret(self._api, namespace)
        await self._pull_secrets.secrets.remove_secret(self._api, namespace)
