"""One operator at a time, by a Lease: the one that holds it works, the others wait for it.

The holder renews the Lease well before it ends, and stops working before it ends where it can't: by its own
clock, from the moment before it asked, so that neither a slow answer nor a wrong clock makes two of them work. A
candidate measures by its own clock as well: it takes the Lease over once it has not seen it change for the whole
duration. Every write carries the version that was read; of two that try, one succeeds.
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

_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class Settings:
    name: str
    namespace: str
    identity: str
    duration_seconds: float = 30.0
    renew_seconds: float = 8.0
    """Between renewals, and between a candidate's looks."""

    @property
    def patience_seconds(self) -> float:
        """How long after its last renewal a holder goes on: it has to have stopped when another one begins."""
        return self.duration_seconds * 2 / 3


class Election:
    """`hold` runs something only while this process holds the Lease."""

    def __init__(self, server: api.Api, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._settings, self._clock = server, settings, clock
        self._seen: tuple[object, float] = (None, clock())
        self.leading = False
        self._taken = False
        """By the last look the Lease is another's."""

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then work until the work ends or the Lease is lost; then give it back."""
        renewed = await self._wait()
        self.leading = True
        log.info("leading", extra=logs.facts(lease=self._settings.name, identity=self._settings.identity))
        worker = asyncio.ensure_future(work())
        keeper = asyncio.create_task(self._keep(renewed))
        try:
            await asyncio.wait((worker, keeper), return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                log.error("the Lease is lost; stopping", extra=logs.facts(lease=self._settings.name))
        finally:
            self.leading = False
            for task in (worker, keeper):
                task.cancel()
            await asyncio.gather(worker, keeper, return_exceptions=True)
            await self._give_back()
        if worker.done() and not worker.cancelled() and (error := worker.exception()):
            raise error

    async def _wait(self) -> float:
        """Try until the Lease is ours."""
        while True:
            if (renewed := await self._try()) is not None:
                return renewed
            await asyncio.sleep(backoff.jittered(self._settings.renew_seconds / 2))

    async def _keep(self, renewed: float) -> None:
        """Renew until that has not worked for too long."""
        while self._clock() - renewed < self._settings.patience_seconds:
            left = self._settings.patience_seconds - (self._clock() - renewed)
            await asyncio.sleep(min(self._settings.renew_seconds, left))
            try:
                async with asyncio.timeout(max(0.1, self._settings.patience_seconds - (self._clock() - renewed))):
                    if (again := await self._try()) is not None:
                        renewed = again
                    elif self._taken:
                        return
            except TimeoutError:
                pass

    async def _try(self) -> float | None:
        """Take or renew the Lease: the time before that was asked for; None if it is another's, or not to be had."""
        asked = self._clock()
        settings = self._settings
        try:
            lease = await self._api.find(api.LEASES, settings.name, settings.namespace)
            if lease is None:
                await self._api.create(api.LEASES, self._lease({}, {}), settings.namespace)
                return asked
            spec = lease.get("spec") or {}
            self._taken = not self._may_take(spec)
            if self._taken:
                return None
            await self._api.replace(api.LEASES, self._lease(lease["metadata"], spec))
        except ConflictError:
            return None
        except ApiError as error:
            log.warning("the Lease can't be had", extra=logs.facts(lease=settings.name, reason=error))
            return None
        return asked

    def _may_take(self, spec: dict[str, Any]) -> bool:
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._settings.identity):
            return True
        state = (holder, spec.get("renewTime"))
        if state != self._seen[0]:
            self._seen = (state, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or self._settings.duration_seconds)
        return self._clock() - self._seen[1] > duration

    def _lease(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        settings = self._settings
        now = datetime.datetime.now(datetime.UTC).strftime(_TIME_FORMAT)
        mine = spec.get("holderIdentity") == settings.identity
        changes = int(spec.get("leaseTransitions") or 0)
        return {
            "apiVersion": api.LEASES.api_version,
            "kind": api.LEASES.kind,
            "metadata": {**metadata, "name": settings.name, "namespace": settings.namespace},
            "spec": {
                "holderIdentity": settings.identity,
                "leaseDurationSeconds": int(settings.duration_seconds),
                "acquireTime": spec.get("acquireTime") if mine else now,
                "renewTime": now,
                "leaseTransitions": changes if mine or not spec else changes + 1,
            },
        }

    async def _give_back(self) -> None:
        """Let the next one begin at once."""
        settings = self._settings
        try:
            lease = await self._api.find(api.LEASES, settings.name, settings.namespace)
            if lease and (lease.get("spec") or {}).get("holderIdentity") == settings.identity:
                await self._api.replace(api.LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ApiError as error:
            log.warning("the Lease is not given back", extra=logs.facts(lease=settings.name, reason=error))
