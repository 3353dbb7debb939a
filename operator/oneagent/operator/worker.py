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
from dataclasses import dataclass
from typing import Any, Final, Protocol

from oneagent.common import dynakube, logs, manifests, names
from oneagent.common.names import DynaKubeName
from oneagent.operator import api, asking, conditions, verdicts
from oneagent.operator.observed import Observed
from oneagent.operator.verdicts import Verdict

log = logging.getLogger(__name__)

FINALIZER: Final = f"{names.API_GROUP}/oneagent-operator"

_GATHER_SECONDS: Final = 0.05
_LONGEST_ROUND_SECONDS: Final = 60.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 300.0

Say = Callable[[Mapping[str, Any], str, str, str], None]
"""An Event about a DynaKube: the object, `Normal` or `Warning`, reason, message."""


@dataclass(frozen=True, slots=True)
class Round:
    """One look at one DynaKube."""

    manifest: Mapping[str, Any]
    """In the newest version."""
    kube: dynakube.DynaKube
    namespace: str
    """The operator's own, which is the DynaKubes'."""
    api: api.Api
    observed: Observed
    facts: asking.Facts
    now: float
    """Seconds since the epoch."""
    found: Mapping[str, Verdict]
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


class Concern(Protocol):
    condition: str
    """The type of its condition."""

    async def reconcile(self, round: Round) -> Verdict | None:
        """Put right what differs; never waits for a tenant. None: it does not concern this DynaKube."""
        ...

    async def clean(self, round: Round) -> None:
        """The DynaKube goes: take away what is not its own by an owner reference. May be repeated."""
        ...


class Worker:
    def __init__(
        self,
        name: DynaKubeName,
        resource: api.Resource,
        namespace: str,
        server: api.Api,
        observed: Observed,
        concerns: Sequence[Concern],
        limit: asking.Limit,
        say: Say,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._resource, self._namespace, self._api, self._observed = resource, namespace, server, observed
        self._concerns, self._limit, self._say, self._clock = concerns, limit, say, clock
        self._awake = asyncio.Event()
        self._facts = asking.Facts()
        self._asked_with: object = None
        self._ask_at = 0.0
        self._asking: asyncio.Task[asking.Facts] | None = None
        self._failures = 0
        self.uses: frozenset[tuple[str, str]] = frozenset()
        """Kind and name of the objects that the tenant is asked with: a change of one wakes this worker."""

    @property
    def facts(self) -> asking.Facts:
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
                pause = _GATHER_SECONDS  # Somebody else was faster; what they wrote is on its way.
            except (api.ApiError, TimeoutError) as error:
                self._failures += 1
                pause = min(_FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), _LONGEST_RETRY_SECONDS)
                log.warning("a round failed", extra=logs.facts(dynakube=self.name, reason=repr(error), again=pause))

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
        if FINALIZER not in (metadata.get("finalizers") or ()):
            await self._set_finalizers(manifest, [*(metadata.get("finalizers") or ()), FINALIZER])
        try:
            kube = dynakube.from_manifest(manifest)
        except manifests.FieldError as error:
            await self._write(manifest, {"Spec": verdicts.wrong("FieldUnusable", str(error))})
            return None
        due = await self._ask_if_due(kube)
        found: dict[str, Verdict] = {"Spec": verdicts.fine("Understood", "every field can be used")}
        if kube.warnings:
            found["Spec"] = verdicts.fine("UnderstoodWithWarnings", "; ".join(kube.warnings))
        round_ = self._now(manifest, kube, found)
        for concern in self._concerns:
            if verdict := await self._verdict(concern, round_):
                found[concern.condition] = verdict
        # Until the tenant has answered once, what an earlier operator has found out stands.
        if self._facts.asked_at or not round_.status.get("conditions"):
            await self._write(manifest, found, kube.mode)
        times = [verdict.again_seconds for verdict in found.values() if verdict.again_seconds is not None]
        return min([*times, *([] if due is None else [due])], default=None)

    async def _verdict(self, concern: Concern, round_: Round) -> Verdict | None:
        try:
            return await concern.reconcile(round_)
        except manifests.FieldError as error:
            return verdicts.wrong("FieldUnusable", str(error))
        except api.UnavailableError as error:
            return verdicts.wrong("ApiServerUnavailable", str(error), _FIRST_RETRY_SECONDS * 5)
        except api.ApiError as error:
            return verdicts.wrong("ApiServerRefused", str(error), _LONGEST_RETRY_SECONDS / 10)
        except Exception as error:  # One concern's bug must not stop the others.
            log.exception("a concern failed", extra=logs.facts(dynakube=self.name, concern=concern.condition))
            return verdicts.wrong("InternalError", f"{type(error).__name__}: {error}", _LONGEST_RETRY_SECONDS)

    def _now(self, manifest: api.Object, kube: dynakube.DynaKube, found: Mapping[str, Verdict]) -> Round:
        now = self._clock()
        return Round(manifest, kube, self._namespace, self._api, self._observed, self._facts, now, found)

    async def _leave(self, manifest: api.Object) -> None:
        """Clean up, then let the DynaKube go."""
        finalizers = manifest["metadata"].get("finalizers") or ()
        if FINALIZER not in finalizers:
            return
        try:
            kube = dynakube.from_manifest(manifest)
        except manifests.FieldError:
            # What cannot be read was never acted on, but for its name.
            kube = dynakube.from_manifest({key: manifest[key] for key in ("apiVersion", "kind", "metadata")})
        for concern in self._concerns:
            await concern.clean(self._now(manifest, kube, {}))
        await self._set_finalizers(manifest, [finalizer for finalizer in finalizers if finalizer != FINALIZER])
        log.info("DynaKube released", extra=logs.facts(dynakube=self.name))

    async def _set_finalizers(self, manifest: api.Object, finalizers: list[str]) -> None:
        # With the version that they were read with: another finalizer that came meanwhile is not lost.
        metadata = {"finalizers": finalizers, "resourceVersion": manifest["metadata"]["resourceVersion"]}
        with contextlib.suppress(api.NotFoundError):
            now = await self._api.merge(self._resource, self.name, {"metadata": metadata}, self._namespace)
            manifest["metadata"].update(
                finalizers=now["metadata"].get("finalizers"), resourceVersion=now["metadata"]["resourceVersion"]
            )

    async def _write(self, manifest: api.Object, found: Mapping[str, Verdict], mode: str = "") -> None:
        """The status, if it is another than before."""
        before = manifest.get("status") or {}
        summary = conditions.ready(found)
        now = self._clock()
        status: dict[str, Any] = {}
        for verdict in found.values():
            for field, value in verdict.fields.items():
                status[field] = {**status.get(field, {}), **value}
        generation = int(manifest["metadata"].get("generation", 0))
        everything = {**found, conditions.READY: summary}
        status["conditions"] = conditions.merged(before.get("conditions") or (), everything, generation, now)
        status["phase"] = conditions.phase(summary)
        if mode:
            status["mode"] = mode
        if self._observed.cluster_id:
            status["kubeSystemUUID"] = self._observed.cluster_id
        if {key: value for key, value in before.items() if key != "updatedTimestamp"} == status:
            return
        self._tell(manifest, before.get("conditions") or (), everything)
        status["updatedTimestamp"] = conditions.stamp(now)
        metadata = {"name": self.name, "namespace": self._namespace}
        with contextlib.suppress(api.NotFoundError):
            await self._api.apply(self._resource, {"metadata": metadata, "status": status}, subresource="status")

    def _tell(self, manifest: api.Object, before: Sequence[Mapping[str, Any]], found: Mapping[str, Verdict]) -> None:
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
            self._facts, self._asking = self._asking.result(), None
            self._ask_at = self._clock() + asking.pause(self._facts, kube.poll_seconds)
        inputs = await self._inputs(kube)
        asked_with = (asking_settings(kube), inputs)
        if asked_with == self._asked_with and self._clock() < self._ask_at:
            return self._ask_at - self._clock()
        self._asked_with = asked_with
        work = asyncio.to_thread(asking.ask, kube, inputs, self._facts, self._limit, self._clock)
        self._asking = asyncio.create_task(work, name=f"ask-{self.name}")
        self._asking.add_done_callback(lambda _: self.wake())
        return None

    async def _inputs(self, kube: dynakube.DynaKube) -> asking.Inputs:
        used = {("Secret", kube.tokens_secret)}
        tokens = await self._content(api.SECRETS, kube.tokens_secret)
        proxy, certificates, missing = "", "", ""
        if kube.proxy_secret:
            used.add(("Secret", kube.proxy_secret))
            found = await self._content(api.SECRETS, kube.proxy_secret)
            proxy = (found or {}).get("proxy", "")
            missing = "" if proxy else f"the Secret {kube.proxy_secret} with the key proxy is not there"
        if kube.trusted_cas:
            used.add(("ConfigMap", kube.trusted_cas))
            found = await self._content(api.CONFIG_MAPS, kube.trusted_cas)
            certificates = (found or {}).get("certs", "")
            if not certificates:
                missing = f"the ConfigMap {kube.trusted_cas} with the key certs is not there"
        self.uses = frozenset(used)
        return asking.Inputs(tokens, proxy, certificates, missing)

    async def _content(self, resource: api.Resource, name: str) -> Mapping[str, str] | None:
        found = await self._api.find(resource, name, self._namespace)
        return None if found is None else api.content(found)


def asking_settings(kube: dynakube.DynaKube) -> tuple[object, ...]:
    """What of a DynaKube decides how its tenant is asked: after a change of it, asking again pays."""
    return (
        *(kube.api_url, kube.tokens_secret, kube.network_zone, kube.proxy, kube.proxy_secret, kube.no_proxy),
        *(kube.trusted_cas, kube.skip_cert_check, kube.host_group),
    )
