"""After an upgrade: stored DynaKubes are brought to the storage version, and the CRD says so.

An object stays stored in the version in which it was written last, and a version can't be taken out of the CRD while
`status.storedVersions` lists it. A write that changes nothing is enough: the API server stores every object that it
writes in the storage version, and leaves alone what is stored so already. So this may be done over and over, and
broken off anywhere.

Two things come first. The API servers of the cluster have to agree on the storage version: one that has not seen the
new CRD yet still writes the old one. And there has to be somebody who converts: without, the API server takes an old
object for a new one by its name alone, and to store it so would lose in which version it had been meant.
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
"""How long every API server takes at most to heed a changed CRD."""
_CHECK_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 60.0


class Objects(Protocol):
    """What this needs of `api.Api`."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    def list(self, resource: api.Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[api.Object]: ...
    async def replace(self, resource: api.Resource, manifest: Mapping[str, Any]) -> api.Object: ...
    async def merge(
        self, resource: api.Resource, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> api.Object: ...


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done."""

    version: str
    """The storage version."""
    problem: str = ""
    """Why it can't be done yet."""


class Storage:
    """One round at a time, in one process of the cluster."""

    def __init__(
        self, server: Objects, definition: str = DEFINITION, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._definition, self._clock = server, definition, clock
        self._due: Due | None = None
        self._due_since = 0.0

    async def round(self) -> float:
        """Do what is due; in how many seconds to look again."""
        try:
            definition = await self._api.find(api.DEFINITIONS, self._definition)
            due = what_is_due(definition) if definition is not None else None
            if definition is not None and due is not None:
                return await self._migrate(definition, due)
        except ConflictError:
            # The CRD has changed meanwhile, so it may say something else now.
            return 1.0
        except ApiError as error:
            log.warning("stored DynaKubes are not migrated yet", extra=logs.facts(reason=error))
            return _RETRY_SECONDS
        self._due = None
        return _CHECK_SECONDS

    async def _migrate(self, definition: api.Object, due: Due) -> float:
        if due.problem:
            self._due = None
            log.info("stored DynaKubes are not migrated yet", extra=logs.facts(reason=due.problem))
            return _RETRY_SECONDS
        if left := self._unsettled(due):
            return left
        if not await self._rewrite(_resource(definition, due.version)):
            return _RETRY_SECONDS
        await self._trim(definition, due.version)
        self._due = None
        return _CHECK_SECONDS

    def _unsettled(self, due: Due) -> float:
        if due != self._due:
            self._due, self._due_since = due, self._clock()
        return max(self._due_since + SETTLE_SECONDS - self._clock(), 0.0)

    async def _rewrite(self, resource: api.Resource) -> bool:
        """Every object as it is, in all namespaces; whether none was left out."""
        done, left = 0, 0
        async for item in self._api.list(resource):
            # Of the items of a list the API server leaves these out.
            manifest = {**item, "apiVersion": resource.api_version, "kind": resource.kind}
            try:
                await self._api.replace(resource, manifest)
                done += 1
            except (ConflictError, NotFoundError):
                # Somebody else has written it, which did the same, or it is gone.
                continue
            except (InvalidError, ForbiddenError) as error:
                # The second is also what a validating webhook's refusal looks like.
                left += 1
                facts = logs.facts(dynakube=item["metadata"]["name"], reason=error)
                log.warning("a DynaKube can't be migrated", extra=facts)
        log.info("DynaKubes written again", extra=logs.facts(version=resource.api_version, written=done, left=left))
        return not left

    async def _trim(self, definition: api.Object, version: str) -> None:
        patch = {
            # As it was before the objects were listed: another storage version since then makes this void.
            "metadata": {"resourceVersion": definition["metadata"]["resourceVersion"]},
            "status": {"storedVersions": [version]},
        }
        await self._api.merge(api.DEFINITIONS, self._definition, patch, subresource="status")
        log.info("the CRD lists its storage version only", extra=logs.facts(version=version))


def what_is_due(definition: Mapping[str, Any]) -> Due | None:
    """None if nothing is stored in another version than the storage version."""
    spec, status = definition["spec"], definition.get("status") or {}
    version = next(one for one in spec["versions"] if one.get("storage"))
    name = version["name"]
    if set(status.get("storedVersions") or [name]) == {name}:
        return None
    if "deletionTimestamp" in definition["metadata"]:
        return Due(name, "the CRD is being deleted")
    if not version.get("served"):
        return Due(name, f"the storage version {name} is not served")
    if (spec.get("conversion") or {}).get("strategy") != "Webhook":
        return Due(name, "nobody converts DynaKubes: the CRD's conversion is not by the webhook")
    return Due(name)


def _resource(definition: Mapping[str, Any], version: str) -> api.Resource:
    spec = definition["spec"]
    names = spec["names"]
    return api.Resource(f"{spec['group']}/{version}", names["kind"], names["plural"], spec["scope"] == "Namespaced")
