"""One loop per DynaKube: run the reconcilers, write the status, wait for a change or the next requeue.

Each reconciler has its own condition; its error is reported there and does not affect the others. An error of the run
itself is reported in the condition `Reconcile`, which exists only then. A run starts after any change, and at the
earliest time that a reconciler has returned; after an error it is repeated with back-off. Between runs the worker keeps
only what a restarted operator can find out again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from oneagent.common import agents, backoff, dynakube, identifiers, logs
from oneagent.common.agents import objects
from oneagent.common.dynakube.network_defaults import NO_DEFAULTS, NetworkDefaults
from oneagent.common.dynakube.tenant_config import CONDITION
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import conditions, fields
from oneagent.common.kubernetes.errors import ApiError, ConflictError, NotFoundError, UnavailableError
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.slots import Slots
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.events import RecordEvent
from oneagent.operator.rate_limit import RateLimiter
from oneagent.operator.reconcile_context import ReconcileContext, Reconciler
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.status_writer import StatusWriter
from oneagent.operator.tenant_poller import TenantPoller

log = logging.getLogger(__name__)

FINALIZER: Final = f"{identifiers.API_GROUP}/oneagent-operator"

FAILED_RUN: Final = "Reconcile"
"""Type of the condition that shows why a run failed."""

_INTERNAL_ERROR: Final = "InternalError"
_DEBOUNCE_SECONDS: Final = 0.05
_WRITE_TIMEOUT_SECONDS: Final = 5.0
_RECONCILE_TIMEOUT_SECONDS: Final = 60.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 300.0


class DynaKubeWorker:
    def __init__(
        self,
        name: DynaKubeName,
        resource: api.Resource,
        namespace: str,
        server: api.Api,
        cache: Cache,
        reconcilers: Sequence[Reconciler],
        limit: RateLimiter,
        slots: Slots,
        record_event: RecordEvent,
        registries: Registries,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        *,
        network_defaults: NetworkDefaults = NO_DEFAULTS,
    ) -> None:
        """`clock` measures the time between polls; `now` is the time of day."""
        self.name = name
        self._kind = agents.kind_of_object(name)
        self._resource, self._namespace, self._api, self._cache = resource, namespace, server, cache
        self._reconcilers, self._network_defaults, self._now = reconcilers, network_defaults, now
        self._poller = TenantPoller(server, namespace, limit, slots, registries, self.wake, clock, now)
        self._status = StatusWriter(server, resource, namespace, cache, record_event, now)
        self._woken = asyncio.Event()
        self._failures = 0
        self._internal_errors: Counter[str] = Counter()
        """Runs in a row that ended in an unexpected error, by the reconciler's condition."""

    @property
    def inputs(self) -> frozenset[tuple[str, str]]:
        """Kind and name of the objects whose change wakes this worker."""
        return self._poller.inputs | {("Secret", tenant_secret.name(self.name))}

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Return when the DynaKube is gone."""
        try:
            await self._run_until_gone()
        finally:
            self._poller.stop()

    async def _run_until_gone(self) -> None:
        pause: float | None = 0.0
        while True:
            await self._sleep(pause)
            obj = self._cache.dynakubes.get(self.name)
            if obj is None:
                return
            try:
                # Not `wait_for`, which before Python 3.12 loses a cancellation that comes with the result.
                async with asyncio.timeout(_RECONCILE_TIMEOUT_SECONDS):
                    pause = await self._reconcile(obj)
                self._failures = 0
            except ConflictError:
                # Another client has written the object; the watch delivers its state soon.
                self._failures += 1
                pause = backoff.exponential(self._failures, 2 * _DEBOUNCE_SECONDS, _FIRST_RETRY_SECONDS * 5)
            except Exception as error:  # One DynaKube's error must not end the operator, which serves the others.
                self._failures += 1
                pause = backoff.exponential(self._failures, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
                details = logs.fields(dynakube=self.name, reason=repr(error), retry_seconds=pause)
                expected = isinstance(error, ApiError | TimeoutError)
                log.warning("%s reconcile failed", self._kind, extra=details, exc_info=None if expected else error)
                await self._write_failure(obj, error)

    async def _write_failure(self, obj: api.Object, error: Exception) -> None:
        """Show in the status that a run failed; the other conditions stay as they were."""
        result = _explain_failure(error)
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_SECONDS):
                await self._status.write(obj, {**_former_results(obj), FAILED_RUN: result})
        except Exception as unwritten:  # noqa: BLE001 - the run is repeated, and the reason is in the log
            details = logs.fields(dynakube=self.name, reason=repr(unwritten))
            log.warning("%s status not written", self._kind, extra=details)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait for a wake-up or the time; merge changes that arrive together."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
            await asyncio.sleep(_DEBOUNCE_SECONDS)
        except TimeoutError:
            pass
        self._woken.clear()

    async def _reconcile(self, obj: api.Object) -> float | None:
        """Run all reconcilers once; return the seconds until the next run."""
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            await self._finalize(obj)
            return None
        finalizers = metadata.get("finalizers") or ()
        if FINALIZER not in finalizers and not await self._set_finalizers(obj, [*finalizers, FINALIZER]):
            return None
        try:
            kube = self._network_defaults.apply(dynakube.from_object(obj))
        except fields.FieldError as error:
            await self._status.write(obj, {"Spec": reconcile_result.failed("FieldUnusable", str(error))})
            return None
        next_poll = await self._poller.poll_if_due(kube)
        results: dict[str, ReconcileResult] = {"Spec": reconcile_result.ok("Understood", "every field can be used")}
        if kube.warnings:
            results["Spec"] = reconcile_result.ok("UnderstoodWithWarnings", "; ".join(kube.warnings))
        context = self._context(obj, kube, results)
        for reconciler in self._reconcilers:
            if result := await self._run(reconciler, context):
                results[reconciler.condition] = result
        former = _former_results(obj)
        if self._poller.state.polled_at or not former:
            await self._status.write(obj, results, kube.mode)
        elif (for_nodes := results.get(CONDITION)) and CONDITION not in former:
            # Before the first poll has ended, the status that an earlier operator wrote is better. But nodes must know
            # at once that they need not ask the tenant.
            await self._status.write(obj, {**former, CONDITION: for_nodes}, kube.mode)
        times = [next_poll, *(result.requeue_seconds for result in results.values())]
        return min((seconds for seconds in times if seconds is not None), default=None)

    async def _run(self, reconciler: Reconciler, context: ReconcileContext) -> ReconcileResult | None:
        try:
            result = await reconciler.reconcile(context)
            self._internal_errors.pop(reconciler.condition, None)
            return result
        except fields.FieldError as error:
            return reconcile_result.failed("FieldUnusable", str(error))
        except UnavailableError as error:
            return reconcile_result.failed("ApiServerUnavailable", str(error), _FIRST_RETRY_SECONDS * 5)
        except ApiError as error:
            return reconcile_result.failed("ApiServerRefused", str(error), _LONGEST_RETRY_SECONDS / 10)
        except Exception as error:  # A bug in one reconciler must not stop the others.
            log.exception("reconciler failed", extra=logs.fields(dynakube=self.name, condition=reconciler.condition))
            self._internal_errors[reconciler.condition] += 1
            failures = self._internal_errors[reconciler.condition]
            pause = backoff.exponential(failures, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
            return reconcile_result.failed(_INTERNAL_ERROR, f"{type(error).__name__}: {error}", pause)

    def _context(
        self, obj: api.Object, kube: dynakube.DynaKube, results: Mapping[str, ReconcileResult]
    ) -> ReconcileContext:
        now = self._now()
        return ReconcileContext(obj, kube, self._namespace, self._api, self._cache, self._poller.state, now, results)

    async def _finalize(self, obj: api.Object) -> None:
        """Let the reconcilers clean up, then remove the finalizer."""
        finalizers = obj["metadata"].get("finalizers") or ()
        if FINALIZER not in finalizers:
            return
        if kube := _minimal_dynakube(obj):
            for reconciler in self._reconcilers:
                await reconciler.finalize(self._context(obj, kube, {}))
        await self._set_finalizers(obj, [finalizer for finalizer in finalizers if finalizer != FINALIZER])
        log.info("%s finalized", self._kind, extra=logs.fields(dynakube=self.name))

    async def _set_finalizers(self, obj: api.Object, finalizers: list[str]) -> bool:
        """Return False if the DynaKube is gone."""
        # With the resourceVersion that was read: a finalizer that another client has added meanwhile is not lost.
        metadata = {"finalizers": finalizers, "resourceVersion": obj["metadata"]["resourceVersion"]}
        try:
            now = await self._api.merge(
                self._resource, objects.name_of(self.name), {"metadata": metadata}, self._namespace
            )
        except NotFoundError:
            return False
        obj["metadata"].update(
            finalizers=now["metadata"].get("finalizers"), resourceVersion=now["metadata"]["resourceVersion"]
        )
        return True


def _former_results(obj: api.Object) -> dict[str, ReconcileResult]:
    """Return the conditions in the status as results."""
    return {
        str(condition["type"]): ReconcileResult(
            condition["status"], str(condition.get("reason")), str(condition.get("message"))
        )
        for condition in (obj.get("status") or {}).get("conditions") or ()
        if condition.get("type") != conditions.READY
    }


def _explain_failure(error: Exception) -> ReconcileResult:
    match error:
        case ApiError():
            return reconcile_result.failed("ApiServerRefused", str(error))
        case TimeoutError():
            return reconcile_result.failed("TimedOut", f"the run took more than {_RECONCILE_TIMEOUT_SECONDS:.0f} s")
        case _:
            return reconcile_result.failed(_INTERNAL_ERROR, f"{type(error).__name__}: {error}; see the operator's log")


def _minimal_dynakube(obj: api.Object) -> dynakube.DynaKube | None:
    """Parse a DynaKube for clean-up, which needs only its name, even if its spec is invalid."""
    try:
        return dynakube.from_object(obj)
    except fields.FieldError:
        bare = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
    try:
        bare["telemetry"] = {"variables": {}}
        return dynakube.from_object({**bare, "spec": {"apiUrl": "https://none.invalid/api"}})
    except fields.FieldError:
        return None
