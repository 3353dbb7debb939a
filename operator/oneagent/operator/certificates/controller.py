"""Reconciles the webhook's certificates: read the cluster's state, execute the next step, read again.

Only the number of failures is kept between steps, so the controller can be killed at any point. A write is valid
only for the version that was read: after a conflict the controller reads again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Gauge

from oneagent.common import backoff, logs
from oneagent.common.kubernetes.errors import ApiError, ConflictError, NotFoundError, UnavailableError
from oneagent.operator import api
from oneagent.operator.certificates import cluster_state, rotation, x509
from oneagent.operator.certificates.cluster_state import ClusterState, Record, Target
from oneagent.operator.certificates.settings import CertificateSettings

log = logging.getLogger(__name__)

Probe = Callable[[bytes], Awaitable[bool]]
"""True if the webhook has endpoints and all serve the certificate with this SHA-256 fingerprint."""

OnChange = Callable[[str, str], None]
"""Receives a reason, one of the constants below, and a message."""

AUTHORITY_MADE: Final = "WebhookAuthorityMade"
AUTHORITY_ADOPTED: Final = "WebhookAuthorityAdopted"
AUTHORITY_RETIRED: Final = "WebhookAuthorityRetired"
CERTIFICATE_ISSUED: Final = "WebhookCertificateIssued"
BUNDLE_PUBLISHED: Final = "WebhookBundlePublished"
BUNDLE_NOT_PUBLISHED: Final = "WebhookBundleNotPublished"
CONVERSION_SET: Final = "ConversionSet"
NOT_SERVED: Final = "WebhookCertificateNotServed"
API_FAILED: Final = "WebhookCertificatesNotKept"

_MOST_STEPS: Final = 40
"""Limit for one run; two rotations with all targets take fewer."""
_FIRST_RETRY_SECONDS: Final = 1.0


class Store(Protocol):
    """The part of `api.Api` that is used here."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    async def create(self, resource: api.Resource, obj: Mapping[str, Any], namespace: str = "") -> api.Object: ...
    async def replace(self, resource: api.Resource, obj: Mapping[str, Any]) -> api.Object: ...
    async def merge(self, resource: api.Resource, name: str, patch: Mapping[str, Any]) -> api.Object: ...
    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None: ...


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.expiration = Gauge(
            "oneagent_operator_certificate_expiration_timestamp_seconds",
            "Expiry of the webhook's CA and server certificate, in seconds since 1970.",
            ["certificate"],
            registry=registry,
        )

    def set_expiration(self, state: ClusterState) -> None:
        authority = min((one.not_after for one in state.record.current), default=None)
        server = state.served.certificate.not_after if state.served.certificate else None
        for name, end in (("ca", authority), ("server", server)):
            if end is not None:
                self.expiration.labels(name).set(end)


class CertificateController:
    """For one webhook. One run at a time, in one process of the cluster."""

    def __init__(
        self,
        store: Store,
        settings: CertificateSettings,
        probe: Probe,
        *,
        metrics: Metrics,
        on_change: OnChange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._settings, self._probe = store, settings, probe
        self._metrics, self._on_change, self._clock = metrics, on_change, clock
        self._secrets: dict[str, api.Object | None] = {}
        self._failed: set[str] = set()
        self._unavailable = False
        self._failures = 0
        self.is_settled = False
        """A run has found the webhook's certificate, and the CRD converted by it."""

    async def reconcile(self) -> float:
        """Execute all due steps; return the seconds until the next run."""
        self._failed.clear()
        self._unavailable = False
        all_served: bool | None = None
        try:
            for _ in range(_MOST_STEPS):
                state = await self._read_state()
                step = rotation.next_step(state, self._settings, self._clock(), all_served)
                if isinstance(step, rotation.Wait):
                    converts = all(target.converts for target in state.targets)
                    self.is_settled = state.served.certificate is not None and converts and not self._failed
                    return self._next_run(step)
                if isinstance(step, rotation.ProbeEndpoints):
                    all_served = await self._probe_endpoints(step.certificate)
                    continue
                try:
                    await self._execute(step, state)
                except ConflictError as error:
                    log.info("update conflict, retrying", extra=logs.fields(error=error))
        except ApiError as error:
            log.warning("certificate reconcile failed", extra=logs.fields(reason=API_FAILED, error=error))
        return self._retry_delay()

    async def _read_state(self) -> ClusterState:
        settings = self._settings
        for name in (settings.authority_secret, settings.secret):
            self._secrets[name] = await self._store.find(api.SECRETS, name, settings.namespace)
        record = cluster_state.record(self._secrets[settings.authority_secret])
        served = cluster_state.served(self._secrets[settings.secret])
        state = ClusterState(record, served, await self._read_targets(), frozenset(self._failed), self._unavailable)
        self._metrics.set_expiration(state)
        return state

    async def _read_targets(self) -> tuple[Target, ...]:
        """Return the existing targets; a failed one does not affect the others."""
        settings, targets = self._settings, list[Target]()
        names = [(api.MUTATING_WEBHOOKS, name) for name in settings.mutating]
        names += [(api.VALIDATING_WEBHOOKS, name) for name in settings.validating]
        names += [(api.DEFINITIONS, settings.definition)] if settings.definition else []
        for resource, name in names:
            try:
                manifest = await self._store.find(resource, name)
            except ApiError as error:
                self._mark_failed(f"{resource.kind} {name}", error)
                self._unavailable = self._unavailable or isinstance(error, UnavailableError)
                continue
            if manifest is None:
                continue
            if resource == api.DEFINITIONS:
                targets.append(cluster_state.definition(manifest, settings))
            else:
                targets.append(cluster_state.hooks(resource, manifest, settings))
        return tuple(targets)

    async def _execute(self, step: rotation.Step, state: ClusterState) -> None:
        bundle = x509.bundle(state.record.trusted)
        match step:
            case rotation.NewAuthority(reason, former):
                await self._new_authority(reason, former, state.record.problem)
            case rotation.SaveState(record):
                await self._write_record(record)
                self._report_record_change(state.record, record)
            case rotation.PublishBundle():
                await self._write_secret(self._settings.secret, bundle, None)
            case rotation.Publish(targets):
                for target in targets:
                    patch = cluster_state.bundle_patch(target, bundle, self._settings)
                    await self._patch(target, patch, BUNDLE_PUBLISHED, "has the CA bundle of the webhook")
            case rotation.Convert(target):
                patch = cluster_state.conversion_patch(target, bundle, self._settings)
                await self._patch(target, patch, CONVERSION_SET, "is converted by the webhook")
            case rotation.Issue(reason):
                await self._issue(reason, state, bundle)

    async def _new_authority(self, reason: str, former: tuple[x509.Certificate, ...], problem: str) -> None:
        settings = self._settings
        authority = x509.new_authority(self._clock(), settings.authority_seconds, settings.skew_seconds)
        await self._write_record(Record((authority.certificate,), authority, former))
        detail = f"{reason}: {problem}" if problem else reason
        self._report(AUTHORITY_MADE, f"The webhook has a new CA ({detail})")

    async def _issue(self, reason: str, state: ClusterState, bundle: bytes) -> None:
        settings = self._settings
        assert state.record.authority is not None, "`rotation` returns Issue only with a CA key"
        pair = x509.issue(
            state.record.authority, settings.hosts, self._clock(), settings.server_seconds, settings.skew_seconds
        )
        await self._write_secret(settings.secret, bundle, pair)
        detail = f"{reason}: {state.served.problem}" if state.served.problem else reason
        self._report(CERTIFICATE_ISSUED, f"The webhook has a new certificate ({detail})")

    async def _patch(self, target: Target, patch: api.Object, reason: str, done: str) -> None:
        try:
            await self._store.merge(target.resource, target.manifest["metadata"]["name"], patch)
        except (ConflictError, NotFoundError):
            # The next read returns its current state.
            return
        except ApiError as error:
            self._mark_failed(target.name, error)
            return
        self._report(reason, f"{target.name} {done}")

    def _mark_failed(self, name: str, error: ApiError) -> None:
        self._failed.add(name)
        log.warning("CA bundle update failed", extra=logs.fields(reason=BUNDLE_NOT_PUBLISHED, target=name, error=error))

    async def _write_record(self, record: Record) -> None:
        before = self._secrets[self._settings.authority_secret]
        await self._write(cluster_state.record_secret(record, self._settings, before), before)

    async def _write_secret(self, name: str, bundle: bytes, pair: x509.Pair | None) -> None:
        before = self._secrets[name]
        await self._write(cluster_state.served_secret(bundle, pair, self._settings, before), before)

    async def _write(self, manifest: api.Object, before: api.Object | None) -> None:
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        if before is None:
            await self._store.create(api.SECRETS, manifest, namespace)
        elif cluster_state.needs_replacement(manifest, before):
            await self._store.delete(api.SECRETS, name, namespace)
            del manifest["metadata"]["resourceVersion"]
            await self._store.create(api.SECRETS, manifest, namespace)
        else:
            await self._store.replace(api.SECRETS, manifest)

    async def _probe_endpoints(self, certificate: x509.Certificate) -> bool:
        try:
            all_served = await self._probe(bytes.fromhex(certificate.fingerprint))
        except (ApiError, OSError) as error:
            log.warning("probe of the webhook's endpoints failed", extra=logs.fields(reason=NOT_SERVED, error=error))
            return False
        if not all_served:
            log.info("webhook does not serve its new certificate yet", extra=logs.fields(reason=NOT_SERVED))
        return all_served

    def _report_record_change(self, before: Record, after: Record) -> None:
        if after.current != before.current:
            self._report(AUTHORITY_ADOPTED, "The webhook uses cert-manager's CA")
        elif before.former and not after.former:
            self._report(
                AUTHORITY_RETIRED, "The webhook's former CA is no longer trusted; all endpoints use the new one"
            )

    def _report(self, reason: str, message: str) -> None:
        log.info(message, extra=logs.fields(reason=reason))
        if self._on_change:
            self._on_change(reason, message)

    def _next_run(self, step: rotation.Wait) -> float:
        if step.needs_retry:
            return min(step.seconds, self._retry_delay())
        self._failures = 0
        return step.seconds

    def _retry_delay(self) -> float:
        self._failures += 1
        return backoff.exponential(self._failures, _FIRST_RETRY_SECONDS, self._settings.longest_retry_seconds)
