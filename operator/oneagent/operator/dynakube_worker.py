"""One loop per DynaKube: look at everything, put right what differs, say so in the status, wait.

Each concern is asked on its own, and what one of them raises is its own condition and no other's. A round is
started by whatever changes, and by the earliest time that a concern has named. Nothing is kept between rounds that
a new operator could not find out by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from oneagent.common import backoff, dynakube, identifiers, logs
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields
from oneagent.common.oci import public_keys
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, asking, conditions, images, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_result import ReconcileResult

log = logging.getLogger(__name__)

FINALIZER: Final = f"{identifiers.API_GROUP}/oneagent-operator"

_GATHER_SECONDS: Final = 0.05
_LONGEST_ROUND_SECONDS: Final = 60.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 300.0

Say = Callable[[Mapping[str, Any], str, str, str], None]
"""An Event about a DynaKube: the object, `Normal` or `Warning`, reason, message."""


@dataclass(frozen=True, slots=True)
class ReconcileContext:
    """One look at one DynaKube."""

    manifest: Mapping[str, Any]
    """In the newest version."""
    kube: dynakube.DynaKube
    namespace: str
    """The operator's own, which is the DynaKubes'."""
    api: api.Api
    observed: Cache
    facts: asking.TenantState
    now: float
    """Seconds since the epoch."""
    found: Mapping[str, ReconcileResult]
    """What the concerns before this one have said in this round, by their conditions' types."""

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the status as it will be: what it was, and what was found in this round."""
        before = self.status.get(name)
        section = dict(before) if isinstance(before, Mapping) else {}
        for verdict in self.found.values():
            section.update(verdict.fields.get(name, {}))
        return section

    @property
    def status(self) -> Mapping[str, Any]:
        status = self.manifest.get("status")
        return status if isinstance(status, Mapping) else {}

    @property
    def owner(self) -> dict[str, Any]:
        """The reference by which what a DynaKube owns goes with it."""
        return {
            "apiVersion": self.manifest["apiVersion"],
            "kind": "DynaKube",
            "name": self.kube.name,
            "uid": self.kube.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


class Reconciler(Protocol):
    condition: str
    """The type of its condition."""

    async def reconcile(self, round: ReconcileContext) -> ReconcileResult | None:
        """Put right what differs; never waits for a tenant. None: it does not concern this DynaKube."""
        ...

    async def clean(self, round: ReconcileContext) -> None:
        """The DynaKube goes: take away what is not its own by an owner reference. May be repeated."""
        ...


class Worker:
    def __init__(
        self,
        name: DynaKubeName,
        resource: api.Resource,
        namespace: str,
        server: api.Api,
        observed: Cache,
        concerns: Sequence[Reconciler],
        limit: asking.Limit,
        threads: Executor,
        say: Say,
        registries: Registries,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._registries = registries
        self._resource, self._namespace, self._api, self._observed = resource, namespace, server, observed
        self._concerns, self._limit, self._say, self._clock = concerns, limit, say, clock
        self._threads = threads
        self._awake = asyncio.Event()
        self._facts = asking.TenantState()
        self._asked_with: object = None
        self._asked_about: object = None
        self._answered_at = 0.0
        self._asking: asyncio.Future[asking.TenantState] | None = None
        self._failures = 0
        self.uses: frozenset[tuple[str, str]] = frozenset()
        """Kind and name of the objects that the tenant is asked with: a change of one wakes this worker."""

    @property
    def facts(self) -> asking.TenantState:
        return self._facts

    def wake(self) -> None:
        self._awake.set()

    async def run(self) -> None:
        """Until the DynaKube is gone."""
        pause: float | None = 0.0
        while True:
            await self._sleep(pause)
            manifest = self._observed.dynakubes.get(self.name)
            if manifest is None:
                return
            try:
                pause = await asyncio.wait_for(self._round(manifest), _LONGEST_ROUND_SECONDS)
                self._failures = 0
            except api.ConflictError:
                # Somebody else was faster; what they wrote is on its way.
                self._failures += 1
                pause = backoff.exponential(self._failures, 2 * _GATHER_SECONDS, _FIRST_RETRY_SECONDS * 5)
            except Exception as error:  # No DynaKube may end the operator, and with it the others' care.
                self._failures += 1
                pause = backoff.exponential(self._failures, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
                facts = logs.facts(dynakube=self.name, reason=repr(error), again=pause)
                known = isinstance(error, api.ApiError | TimeoutError)
                log.warning("a round failed", extra=facts, exc_info=None if known else error)

    async def _sleep(self, seconds: float | None) -> None:
        """Until woken or so many seconds have passed; changes that come together are one."""
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
            await asyncio.sleep(_GATHER_SECONDS)
        except TimeoutError:
            pass
        self._awake.clear()

    async def _round(self, manifest: api.Object) -> float | None:
        """One look; after how many seconds to look again."""
        metadata = manifest["metadata"]
        if metadata.get("deletionTimestamp"):
            await self._leave(manifest)
            return None
        finalizers = metadata.get("finalizers") or ()
        if FINALIZER not in finalizers and not await self._set_finalizers(manifest, [*finalizers, FINALIZER]):
            return None
        try:
            kube = dynakube.from_manifest(manifest)
        except fields.FieldError as error:
            await self._write(manifest, {"Spec": reconcile_result.wrong("FieldUnusable", str(error))})
            return None
        due = await self._ask_if_due(kube)
        found: dict[str, ReconcileResult] = {"Spec": reconcile_result.fine("Understood", "every field can be used")}
        if kube.warnings:
            found["Spec"] = reconcile_result.fine("UnderstoodWithWarnings", "; ".join(kube.warnings))
        context = self._now(manifest, kube, found)
        for concern in self._concerns:
            if verdict := await self._verdict(concern, context):
                found[concern.condition] = verdict
        # Until the tenant has answered once, what an earlier operator has found out stands.
        if self._facts.asked_at or not context.status.get("conditions"):
            await self._write(manifest, found, kube.mode)
        times = [verdict.again_seconds for verdict in found.values() if verdict.again_seconds is not None]
        return min([*times, *([] if due is None else [due])], default=None)

    async def _verdict(self, concern: Reconciler, context: ReconcileContext) -> ReconcileResult | None:
        try:
            return await concern.reconcile(context)
        except fields.FieldError as error:
            return reconcile_result.wrong("FieldUnusable", str(error))
        except api.UnavailableError as error:
            return reconcile_result.wrong("ApiServerUnavailable", str(error), _FIRST_RETRY_SECONDS * 5)
        except api.ApiError as error:
            return reconcile_result.wrong("ApiServerRefused", str(error), _LONGEST_RETRY_SECONDS / 10)
        except Exception as error:  # One concern's bug must not stop the others.
            log.exception("a concern failed", extra=logs.facts(dynakube=self.name, concern=concern.condition))
            return reconcile_result.wrong("InternalError", f"{type(error).__name__}: {error}", _LONGEST_RETRY_SECONDS)

    def _now(
        self, manifest: api.Object, kube: dynakube.DynaKube, found: Mapping[str, ReconcileResult]
    ) -> ReconcileContext:
        now = self._clock()
        return ReconcileContext(manifest, kube, self._namespace, self._api, self._observed, self._facts, now, found)

    async def _leave(self, manifest: api.Object) -> None:
        """Clean up, then let the DynaKube go."""
        finalizers = manifest["metadata"].get("finalizers") or ()
        if FINALIZER not in finalizers:
            return
        if kube := _nameable(manifest):
            for concern in self._concerns:
                await concern.clean(self._now(manifest, kube, {}))
        await self._set_finalizers(manifest, [finalizer for finalizer in finalizers if finalizer != FINALIZER])
        log.info("DynaKube released", extra=logs.facts(dynakube=self.name))

    async def _set_finalizers(self, manifest: api.Object, finalizers: list[str]) -> bool:
        """Whether there was still something to set them on."""
        # With the version that they were read with: another finalizer that came meanwhile is not lost.
        metadata = {"finalizers": finalizers, "resourceVersion": manifest["metadata"]["resourceVersion"]}
        try:
            now = await self._api.merge(self._resource, self.name, {"metadata": metadata}, self._namespace)
        except api.NotFoundError:
            return False
        manifest["metadata"].update(
            finalizers=now["metadata"].get("finalizers"), resourceVersion=now["metadata"]["resourceVersion"]
        )
        return True

    async def _write(self, manifest: api.Object, found: Mapping[str, ReconcileResult], mode: str = "") -> None:
        """The status, if it is another than before."""
        before = manifest.get("status") or {}
        summary = conditions.ready(found)
        now = self._clock()
        status: dict[str, Any] = _sections(before, found, mode)
        generation = int(manifest["metadata"].get("generation", 0))
        everything = {**found, conditions.READY: summary}
        status["conditions"] = conditions.merged(before.get("conditions") or (), everything, generation, now)
        status["phase"] = conditions.phase(summary)
        if mode:
            status["mode"] = mode
        if self._observed.cluster_id:
            status["kubeSystemUUID"] = self._observed.cluster_id
        if _same(before, status):
            return
        self._tell(manifest, before.get("conditions") or (), everything)
        status["updatedTimestamp"] = conditions.stamp(now)
        metadata = {"name": self.name, "namespace": self._namespace}
        with contextlib.suppress(api.NotFoundError):
            await self._api.apply(self._resource, {"metadata": metadata, "status": status}, subresource="status")

    def _tell(
        self, manifest: api.Object, before: Sequence[Mapping[str, Any]], found: Mapping[str, ReconcileResult]
    ) -> None:
        """An Event for each condition that has become wrong, or right again."""
        known = {str(condition.get("type")): condition.get("status") for condition in before}
        for kind, verdict in found.items():
            if kind == conditions.READY or known.get(kind) == verdict.status:
                continue
            if verdict.status == "False":
                self._say(manifest, "Warning", verdict.reason, f"{kind}: {verdict.message}")
            elif verdict.status == "True" and known.get(kind) == "False":
                self._say(manifest, "Normal", verdict.reason, f"{kind}: {verdict.message}")

    async def _ask_if_due(self, kube: dynakube.DynaKube) -> float | None:
        """Start asking the tenant in the background if it is time; after how many seconds it is time again."""
        if self._asking is not None:
            if not self._asking.done():
                return None  # Its end wakes this worker.
            done, self._asking = self._asking, None
            self._facts = done.result()
            self._answered_at = self._clock()
        inputs, self.uses = await read_inputs(self._api, self._namespace, kube)
        asked_with = (asking_settings(kube), inputs)
        # From what the DynaKube says now: who shortens the interval does not wait for the end of the former one.
        due = self._answered_at + asking.pause(self._facts, kube.poll_seconds) - self._clock()
        if asked_with == self._asked_with and due > 0:
            return due
        if (kube.uid, kube.api_url) != self._asked_about:
            self._facts, self._asked_about = asking.TenantState(), (kube.uid, kube.api_url)
        elif asked_with != self._asked_with:
            # To another question "nothing has changed since" would be no answer.
            self._facts = replace(self._facts, revision=0)
        self._asked_with = asked_with
        question = (kube, inputs, self._facts, self._limit, self._clock, self._registries)
        self._asking = asyncio.get_running_loop().run_in_executor(self._threads, asking.ask, *question)
        self._asking.add_done_callback(lambda _: self.wake())
        return None


def _nameable(manifest: api.Object) -> dynakube.DynaKube | None:
    """For cleaning up, which needs no more than the name: of one that cannot be read nothing else was acted on."""
    try:
        return dynakube.from_manifest(manifest)
    except fields.FieldError:
        bare = {key: manifest[key] for key in ("apiVersion", "kind", "metadata")}
    try:
        return dynakube.from_manifest({**bare, "spec": {"apiUrl": "https://none.invalid/api"}})
    except fields.FieldError:
        return None


def _sections(before: Mapping[str, Any], found: Mapping[str, ReconcileResult], mode: str) -> dict[str, Any]:
    """The status' sections: what was found goes over what was known, since what is known must survive a bad day.

    A field that is None goes; so does what the mode has no use for. Without a mode, nothing was found out at all.
    """
    sections = {name: dict(before.get(name) or {}) for name in ("oneAgent", "codeModules")}
    for verdict in found.values():
        for name, values in verdict.fields.items():
            sections[name] = {**sections.get(name, {}), **values}
    if mode and mode not in namespace_mapping.INJECTING:
        sections.pop("codeModules", None)
    if mode in ("applicationMonitoring", "none"):
        kept = sections["oneAgent"].get("connectionInfoStatus")
        sections["oneAgent"] = {"connectionInfoStatus": kept} if kept else {}
    cleaned = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }
    return {name: section for name, section in cleaned.items() if section}


def _same(before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether what is ours of a status is so already; another operator's fields and conditions may be beside it."""
    kinds = {condition["type"] for condition in status["conditions"]}
    ours = [condition for condition in before.get("conditions") or () if condition.get("type") in kinds]
    if sorted(ours, key=lambda condition: str(condition["type"])) != status["conditions"]:
        return False
    gone = {"oneAgent", "codeModules"} - status.keys()
    if any(before.get(name) for name in gone):
        return False
    return all(before.get(key) == value for key, value in status.items() if key != "conditions")


def asking_settings(kube: dynakube.DynaKube) -> tuple[object, ...]:
    """What of a DynaKube decides how its tenant is asked: after a change of it, asking again pays."""
    return (
        *(kube.api_url, kube.tokens_secret, kube.network_zone, kube.proxy, kube.proxy_secret, kube.no_proxy),
        *(kube.trusted_cas, kube.skip_cert_check, kube.host_group),
        *(kube.package, kube.pull_secret, kube.image_key),
    )


async def read_inputs(
    server: api.Api, namespace: str, kube: dynakube.DynaKube
) -> tuple[asking.Inputs, frozenset[tuple[str, str]]]:
    """What a DynaKube's tenant is asked with, and the kinds and names of the objects that say so; `ApiError`."""
    used = {("Secret", kube.tokens_secret)}
    tokens = await _content(server, namespace, api.SECRETS, kube.tokens_secret)
    proxy, certificates, missing = "", "", ""
    if kube.proxy_secret:
        used.add(("Secret", kube.proxy_secret))
        found = await _content(server, namespace, api.SECRETS, kube.proxy_secret)
        proxy = (found or {}).get("proxy", "")
        missing = "" if proxy else f"the Secret {kube.proxy_secret} with the key proxy is not there"
    if kube.trusted_cas:
        used.add(("ConfigMap", kube.trusted_cas))
        found = await _content(server, namespace, api.CONFIG_MAPS, kube.trusted_cas)
        certificates = (found or {}).get("certs", "")
        if not certificates:
            missing = f"the ConfigMap {kube.trusted_cas} with the key certs is not there"
    image = images.Secrets()
    if kube.image is not None:
        named = (kube.pull_secret, "" if public_keys.is_pem(kube.image_key) else kube.image_key)
        used |= {("Secret", name) for name in named if name}
        image = images.Secrets(
            *[await _content(server, namespace, api.SECRETS, name) if name else None for name in named]
        )
    return asking.Inputs(tokens, proxy, certificates, missing, image), frozenset(used)


async def _content(server: api.Api, namespace: str, resource: api.Resource, name: str) -> Mapping[str, str] | None:
    found = await server.find(resource, name, namespace)
    return None if found is None else api.content(found)
