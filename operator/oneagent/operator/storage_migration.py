"""Storage migration after an upgrade: rewrites stored DynaKubes in the storage version and trims the CRD's status.

An object stays stored in the version in which it was written last. A version cannot be removed from the CRD while
`status.storedVersions` lists it. A write that changes nothing is enough: the API server stores it in the storage
version, and skips it if the object is stored so already. So the migration may be repeated, and interrupted anywhere.

It has two preconditions. The API servers of the cluster must agree on the storage version: one that has not read the
new CRD yet still writes the old version. And the CRD must convert by the webhook. Without conversion the API server
only renames the version of an old object, and storing that would lose the version it was written in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from oneagent.common import logs
from oneagent.common.kubernetes.errors import ApiError, ConflictError, ForbiddenError, InvalidError, NotFoundError
from oneagent.operator import api

log = logging.getLogger(__name__)

DEFINITION: Final = "dynakubes.dynatrace.com"

SETTLE_SECONDS: Final = 60.0
"""Longest time until every API server uses a changed CRD."""
_CHECK_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 60.0


class Objects(Protocol):
    """The part of `api.Api` that a migration uses."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    def list(self, resource: api.Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[api.Object]: ...
    async def replace(self, resource: api.Resource, obj: Mapping[str, Any]) -> api.Object: ...
    async def merge(
        self, resource: api.Resource, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> api.Object: ...


@dataclass(frozen=True, slots=True)
class Plan:
    version: str
    """The storage version."""
    problem: str = ""
    """Reason why the migration cannot start yet."""


class StorageMigration:
    """One call at a time, in one process of the cluster."""

    def __init__(
        self, server: Objects, definition: str = DEFINITION, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._definition, self._clock = server, definition, clock
        self._plan: Plan | None = None
        self._planned_at = 0.0

    async def reconcile(self) -> float:
        """Migrate if necessary; return the seconds until the next call."""
        try:
            definition = await self._api.find(api.DEFINITIONS, self._definition)
            plan = make_plan(definition) if definition is not None else None
            if definition is not None and plan is not None:
                return await self._migrate(definition, plan)
        except ConflictError:
            # The CRD has changed meanwhile, and the plan with it.
            return 1.0
        except ApiError as error:
            log.warning("storage migration failed", extra=logs.fields(reason=error))
            return _RETRY_SECONDS
        self._plan = None
        return _CHECK_SECONDS

    async def _migrate(self, definition: api.Object, plan: Plan) -> float:
        if plan.problem:
            self._plan = None
            log.info("storage migration postponed", extra=logs.fields(reason=plan.problem))
            return _RETRY_SECONDS
        if left := self._seconds_to_settle(plan):
            return left
        if not await self._rewrite(_resource(definition, plan.version)):
            return _RETRY_SECONDS
        await self._trim(definition, plan.version)
        self._plan = None
        return _CHECK_SECONDS

    def _seconds_to_settle(self, plan: Plan) -> float:
        if plan != self._plan:
            self._plan, self._planned_at = plan, self._clock()
        return max(self._planned_at + SETTLE_SECONDS - self._clock(), 0.0)

    async def _rewrite(self, resource: api.Resource) -> bool:
        """Write every object of all namespaces as it is; true if none was refused."""
        written, refused = 0, 0
        async for item in self._api.list(resource):
            # The items of a list may come without these two.
            obj = {**item, "apiVersion": resource.api_version, "kind": resource.kind}
            try:
                await self._api.replace(resource, obj)
                written += 1
            except (ConflictError, NotFoundError):
                # Another client has written it, to the same effect, or it is deleted.
                continue
            except (InvalidError, ForbiddenError) as error:
                # 403 is also the refusal of a validating webhook.
                refused += 1
                details = logs.fields(dynakube=item["metadata"]["name"], reason=error)
                log.warning("DynaKube write refused", extra=details)
        details = logs.fields(version=resource.api_version, written=written, refused=refused)
        log.info("DynaKubes rewritten", extra=details)
        return not refused

    async def _trim(self, definition: api.Object, version: str) -> None:
        patch = {
            # Read before the objects were listed: a storage version set since then makes this a conflict.
            "metadata": {"resourceVersion": definition["metadata"]["resourceVersion"]},
            "status": {"storedVersions": [version]},
        }
        await self._api.merge(api.DEFINITIONS, self._definition, patch, subresource="status")
        log.info("stored versions trimmed", extra=logs.fields(version=version))


def make_plan(definition: Mapping[str, Any]) -> Plan | None:
    """Return None if everything is stored in the storage version."""
    spec, status = definition["spec"], definition.get("status") or {}
    version = next(one for one in spec["versions"] if one.get("storage"))
    name = version["name"]
    if set(status.get("storedVersions") or [name]) == {name}:
        return None
    if "deletionTimestamp" in definition["metadata"]:
        return Plan(name, "the CRD is being deleted")
    if not version.get("served"):
        return Plan(name, f"the storage version {name} is not served")
    if (spec.get("conversion") or {}).get("strategy") != "Webhook":
        return Plan(name, "the CRD does not convert DynaKubes by the webhook")
    return Plan(name)


def _resource(definition: Mapping[str, Any], version: str) -> api.Resource:
    spec = definition["spec"]
    names = spec["names"]
    return api.Resource(f"{spec['group']}/{version}", names["kind"], names["plural"], spec["scope"] == "Namespaced")
