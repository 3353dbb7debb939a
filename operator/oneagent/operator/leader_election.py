"""Leader election by a Lease: the holder works, the other operators are candidates.

The leader renews the Lease well before it expires. If it cannot, it stops working before the expiry: by its own
clock, from the moment before the last renewal was requested. So neither a slow response nor a wrong clock makes two
leaders. A candidate also measures by its own clock: it acquires the Lease when it has not seen a renewal for the whole
duration, or when the holder's pod does not exist: an API server deletes a pod after its processes have ended. So after
a crash, or after an uninstall that took the holder's rights before it could release the Lease, the next one does not
wait. Every write carries the resource version that was read, so of two candidates one succeeds.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import backoff, logs
from oneagent.common.kubernetes.errors import ApiError, ConflictError
from oneagent.operator import api

log = logging.getLogger(__name__)

HOLDER_POD: Final = "oneagent.dynatrace.com/holder-pod"
"""Annotation of the Lease: the holder's pod; empty if it runs in none."""
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    name: str
    namespace: str
    identity: str
    lease_seconds: float = 30.0
    retry_seconds: float = 8.0
    """Interval of renewals, and of a candidate's attempts."""
    is_pod: bool = False
    """`identity` is the name of this process's pod"""

    @property
    def renew_deadline_seconds(self) -> float:
        """A leader stops this long after its last renewal, before a candidate may start."""
        return self.lease_seconds * 2 / 3


class LeaderElection:
    """`run` runs work only while this process holds the Lease."""

    def __init__(
        self,
        server: api.Api,
        settings: LeaseSettings,
        clock: Callable[[], float] = time.monotonic,
        pod_exists: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """`pod_exists`: looks whether a pod of this namespace exists; any `ApiError`."""
        self._api, self._settings, self._clock = server, settings, clock
        self._pod_exists = pod_exists
        self._observed: tuple[object, float] = (None, clock())
        """Holder and renewal time of another's Lease, and when they were first read."""
        self.is_leader = False
        self._is_held_by_other = False

    @property
    def is_undecided(self) -> bool:
        """True until this process leads, or has read that another one does."""
        return not self.is_leader and not self._is_held_by_other

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Acquire the Lease, work until the work ends or the Lease is lost, and release the Lease."""
        renewed = await self._acquire()
        self.is_leader = True
        log.info("lease acquired", extra=logs.fields(lease=self._settings.name, identity=self._settings.identity))
        worker = asyncio.ensure_future(work())
        renewer = asyncio.create_task(self._renew_until_lost(renewed))
        try:
            await asyncio.wait((worker, renewer), return_when=asyncio.FIRST_COMPLETED)
            if renewer.done():
                log.error("lease lost, stopping", extra=logs.fields(lease=self._settings.name))
        finally:
            self.is_leader = False
            for task in (worker, renewer):
                task.cancel()
            await asyncio.gather(worker, renewer, return_exceptions=True)
            await self._release()
        if worker.done() and not worker.cancelled() and (error := worker.exception()):
            raise error

    async def _acquire(self) -> float:
        while True:
            if (renewed := await self._acquire_or_renew()) is not None:
                return renewed
            await asyncio.sleep(backoff.jittered(self._settings.retry_seconds / 2))

    async def _renew_until_lost(self, renewed: float) -> None:
        """Renew until the deadline has passed since the last success, or another process holds the Lease."""
        deadline = self._settings.renew_deadline_seconds
        while self._clock() - renewed < deadline:
            left = deadline - (self._clock() - renewed)
            await asyncio.sleep(min(self._settings.retry_seconds, left))
            try:
                async with asyncio.timeout(max(0.1, deadline - (self._clock() - renewed))):
                    if (again := await self._acquire_or_renew()) is not None:
                        renewed = again
                    elif self._is_held_by_other:
                        return
            except TimeoutError:
                pass

    async def _acquire_or_renew(self) -> float | None:
        """Return the time before the request; None if the Lease is another's or the request failed."""
        requested = self._clock()
        settings = self._settings
        try:
            lease = await self._api.find(api.LEASES, settings.name, settings.namespace)
            if lease is None:
                await self._api.create(api.LEASES, self._lease({}, {}), settings.namespace)
                return requested
            spec = lease.get("spec") or {}
            self._is_held_by_other = not self._may_acquire(spec) and not await self._is_holder_gone(lease)
            if self._is_held_by_other:
                return None
            await self._api.replace(api.LEASES, self._lease(lease["metadata"], spec))
        except ConflictError:
            return None
        except ApiError as error:
            log.warning("lease request failed", extra=logs.fields(lease=settings.name, reason=error))
            return None
        return requested

    def _may_acquire(self, spec: dict[str, Any]) -> bool:
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._settings.identity):
            return True
        state = (holder, spec.get("renewTime"))
        if state != self._observed[0]:
            self._observed = (state, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or self._settings.lease_seconds)
        return self._clock() - self._observed[1] > duration

    async def _is_holder_gone(self, lease: dict[str, Any]) -> bool:
        """Return True if a candidate need not wait for the Lease to expire; a leader does not ask.

        Only a Lease that names its holder's pod is judged: an operator may also run elsewhere.
        """
        pod = (lease["metadata"].get("annotations") or {}).get(HOLDER_POD)
        if self._pod_exists is None or self.is_leader or not pod or pod != lease["spec"].get("holderIdentity"):
            return False
        return not await self._pod_exists(pod)

    def _lease(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        settings = self._settings
        now = datetime.datetime.now(datetime.UTC).strftime(_TIME_FORMAT)
        is_own = spec.get("holderIdentity") == settings.identity
        pod = settings.identity if settings.is_pod else ""
        transitions = int(spec.get("leaseTransitions") or 0)
        return {
            "apiVersion": api.LEASES.api_version,
            "kind": api.LEASES.kind,
            "metadata": {
                **metadata,
                "name": settings.name,
                "namespace": settings.namespace,
                "annotations": {**(metadata.get("annotations") or {}), HOLDER_POD: pod},
            },
            "spec": {
                "holderIdentity": settings.identity,
                "leaseDurationSeconds": int(settings.lease_seconds),
                "acquireTime": spec.get("acquireTime") if is_own else now,
                "renewTime": now,
                "leaseTransitions": transitions if is_own or not spec else transitions + 1,
            },
        }

    async def _release(self) -> None:
        """Let the next candidate start at once."""
        settings = self._settings
        try:
            lease = await self._api.find(api.LEASES, settings.name, settings.namespace)
            if lease and (lease.get("spec") or {}).get("holderIdentity") == settings.identity:
                await self._api.replace(api.LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ApiError as error:
            log.warning("lease release failed", extra=logs.fields(lease=settings.name, reason=error))


def pod_finder(server: api.Api, namespace: str) -> Callable[[str], Awaitable[bool]]:
    """Return the function that looks whether a pod exists; any `ApiError`."""

    async def exists(pod: str) -> bool:
        pods = server.list(api.PODS, namespace, fields=f"metadata.name={pod}")
        return any([found async for found in pods])

    return exists
