"""Keeps the webhook's certificates: looks at what the cluster holds, does the next step, and looks again.

Nothing is remembered between two looks but how long to wait for what does not work yet, so a keeper can be killed
anywhere. What it writes holds only for the version that it has read: if somebody was faster, it looks again.
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
from oneagent.operator.certificates import cluster_state as holding
from oneagent.operator.certificates import rotation, x509
from oneagent.operator.certificates.cluster_state import ClusterState, Record, Target
from oneagent.operator.certificates.settings import Settings

log = logging.getLogger(__name__)

Probe = Callable[[bytes], Awaitable[bool]]
"""Whether the webhook has endpoints and every one of them serves the certificate with this SHA-256 fingerprint."""

Tell = Callable[[str, str], None]
"""Takes what people should know: a reason, which is one of the constants below, and a sentence. For an Event."""

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
"""In one round. Two rotations and every target of them take fewer."""
_FIRST_PAUSE_SECONDS: Final = 1.0


class Store(Protocol):
    """What this needs of `api.Api`."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    async def create(self, resource: api.Resource, manifest: Mapping[str, Any], namespace: str = "") -> api.Object: ...
    async def replace(self, resource: api.Resource, manifest: Mapping[str, Any]) -> api.Object: ...
    async def merge(self, resource: api.Resource, name: str, patch: Mapping[str, Any]) -> api.Object: ...
    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None: ...


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.expiry_seconds = Gauge(
            "oneagent_operator_certificate_expiry_seconds",
            "Seconds until a certificate of the webhook expires: of its CA, and of its server.",
            ["certificate"],
            registry=registry,
        )

    def show(self, held: ClusterState, clock: Callable[[], float]) -> None:
        """The figures go on by themselves, so that they tell of a keeper that has stopped."""
        authority = min((one.not_after for one in held.record.current), default=None)
        server = held.served.certificate.not_after if held.served.certificate else None
        for name, end in (("ca", authority), ("server", server)):
            if end is not None:
                self.expiry_seconds.labels(name).set_function(_seconds_until(end, clock))


def _seconds_until(end: float, clock: Callable[[], float]) -> Callable[[], float]:
    return lambda: end - clock()


class CertificateController:
    """For one webhook. One round at a time, in one process of the cluster."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        probe: Probe,
        *,
        metrics: Metrics,
        tell: Tell | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._settings, self._probe = store, settings, probe
        self._metrics, self._tell, self._clock = metrics, tell, clock
        self._secrets: dict[str, api.Object | None] = {}
        self._failed: set[str] = set()
        self._unread = False
        self._failures = 0

    async def round(self) -> float:
        """Do what is due; in how many seconds there will be something to do again, if nobody changes anything."""
        self._failed.clear()
        self._unread = False
        answer: bool | None = None
        try:
            for _ in range(_MOST_STEPS):
                held = await self._look()
                step = rotation.next_step(held, self._settings, self._clock(), answer)
                if isinstance(step, rotation.Wait):
                    return self._rest(step)
                if isinstance(step, rotation.ProbeEndpoints):
                    answer = await self._ask(step.certificate)
                    continue
                try:
                    await self._do(step, held)
                except ConflictError as error:
                    log.info("somebody else was faster", extra=logs.facts(error=error))
        except ApiError as error:
            log.warning("certificates are not kept for now", extra=logs.facts(reason=API_FAILED, error=error))
        return self._in_vain()

    async def _look(self) -> ClusterState:
        settings = self._settings
        for name in (settings.authority_secret, settings.secret):
            self._secrets[name] = await self._store.find(api.SECRETS, name, settings.namespace)
        record = holding.record(self._secrets[settings.authority_secret])
        served = holding.served(self._secrets[settings.secret])
        held = ClusterState(record, served, await self._targets(), frozenset(self._failed), self._unread)
        self._metrics.show(held, self._clock)
        return held

    async def _targets(self) -> tuple[Target, ...]:
        """Those that are there. One that can't be read does not keep the others from being kept."""
        settings, targets = self._settings, list[Target]()
        wanted = [(api.MUTATING_WEBHOOKS, name) for name in settings.mutating]
        wanted += [(api.VALIDATING_WEBHOOKS, name) for name in settings.validating]
        wanted += [(api.DEFINITIONS, settings.definition)] if settings.definition else []
        for resource, name in wanted:
            try:
                manifest = await self._store.find(resource, name)
            except ApiError as error:
                self._note_failed(f"{resource.kind} {name}", error)
                self._unread = self._unread or isinstance(error, UnavailableError)
                continue
            if manifest is None:
                continue
            if resource == api.DEFINITIONS:
                targets.append(holding.definition(manifest, settings))
            else:
                targets.append(holding.hooks(resource, manifest, settings))
        return tuple(targets)

    async def _do(self, step: rotation.Step, held: ClusterState) -> None:
        bundle = x509.bundle(held.record.trusted)
        match step:
            case rotation.NewAuthority(reason, former):
                await self._new_authority(reason, former, held.record.fault)
            case rotation.SaveState(record):
                await self._write_record(record)
                self._say_what_changed(held.record, record)
            case rotation.PublishBundle():
                await self._write_secret(self._settings.secret, bundle, None)
            case rotation.Publish(targets):
                for target in targets:
                    patch = holding.bundle_patch(target, bundle, self._settings)
                    await self._patch(target, patch, BUNDLE_PUBLISHED, "has the CA bundle of the webhook")
            case rotation.Convert(target):
                patch = holding.conversion_patch(target, bundle, self._settings)
                await self._patch(target, patch, CONVERSION_SET, "is converted by the webhook")
            case rotation.Issue(reason):
                await self._issue(reason, held, bundle)

    async def _new_authority(self, reason: str, former: tuple[x509.Certificate, ...], fault: str) -> None:
        settings = self._settings
        made = x509.new_authority(self._clock(), settings.authority_seconds, settings.skew_seconds)
        await self._write_record(Record((made.certificate,), made, former))
        why = f"{reason}: {fault}" if fault else reason
        self._say(AUTHORITY_MADE, f"The webhook has a new CA ({why})")

    async def _issue(self, reason: str, held: ClusterState, bundle: bytes) -> None:
        settings = self._settings
        assert held.record.authority is not None, "only who has the CA's key decides to issue"
        pair = x509.issue(
            held.record.authority, settings.hosts, self._clock(), settings.server_seconds, settings.skew_seconds
        )
        await self._write_secret(settings.secret, bundle, pair)
        why = f"{reason}: {held.served.fault}" if held.served.fault else reason
        self._say(CERTIFICATE_ISSUED, f"The webhook has a new certificate ({why})")

    async def _patch(self, target: Target, patch: api.Object, reason: str, done: str) -> None:
        try:
            await self._store.merge(target.resource, target.manifest["metadata"]["name"], patch)
        except (ConflictError, NotFoundError):
            # The next look shows what it is now.
            return
        except ApiError as error:
            self._note_failed(target.name, error)
            return
        self._say(reason, f"{target.name} {done}")

    def _note_failed(self, name: str, error: ApiError) -> None:
        self._failed.add(name)
        log.warning("no CA bundle for now", extra=logs.facts(reason=BUNDLE_NOT_PUBLISHED, target=name, error=error))

    async def _write_record(self, record: Record) -> None:
        before = self._secrets[self._settings.authority_secret]
        await self._write(holding.record_secret(record, self._settings, before), before)

    async def _write_secret(self, name: str, bundle: bytes, pair: x509.Pair | None) -> None:
        before = self._secrets[name]
        await self._write(holding.served_secret(bundle, pair, self._settings, before), before)

    async def _write(self, manifest: api.Object, before: api.Object | None) -> None:
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        if before is None:
            await self._store.create(api.SECRETS, manifest, namespace)
        elif holding.needs_anew(manifest, before):
            await self._store.delete(api.SECRETS, name, namespace)
            del manifest["metadata"]["resourceVersion"]
            await self._store.create(api.SECRETS, manifest, namespace)
        else:
            await self._store.replace(api.SECRETS, manifest)

    async def _ask(self, certificate: x509.Certificate) -> bool:
        try:
            answer = await self._probe(bytes.fromhex(certificate.fingerprint))
        except (ApiError, OSError) as error:
            log.warning("the webhook's endpoints could not be asked", extra=logs.facts(reason=NOT_SERVED, error=error))
            return False
        if not answer:
            log.info("the webhook does not serve its certificate yet", extra=logs.facts(reason=NOT_SERVED))
        return answer

    def _say_what_changed(self, before: Record, after: Record) -> None:
        if after.current != before.current:
            self._say(AUTHORITY_ADOPTED, "The webhook's CA is cert-manager's")
        elif before.former and not after.former:
            self._say(
                AUTHORITY_RETIRED, "The webhook's former CA is no longer trusted: its new one is served everywhere"
            )

    def _say(self, reason: str, message: str) -> None:
        log.info(message, extra=logs.facts(reason=reason))
        if self._tell:
            self._tell(reason, message)

    def _rest(self, step: rotation.Wait) -> float:
        if step.in_vain:
            return min(step.seconds, self._in_vain())
        self._failures = 0
        return step.seconds

    def _in_vain(self) -> float:
        self._failures += 1
        return backoff.exponential(self._failures, _FIRST_PAUSE_SECONDS, self._settings.patience_seconds)
