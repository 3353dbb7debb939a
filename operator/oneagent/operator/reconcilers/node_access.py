"""The Role by which nodes read the Secrets and ConfigMaps that DynaKubes name, their tenants' answers, and no others.

RBAC has no patterns for names, so the operator writes the names into one Role. The chart creates this Role without
rules and binds it to the driver's service account; its upgrades leave alone what it does not set. The operator cannot
grant more than it may do itself, and has no right to any other Role.

Only DynaKubes with views count: nodes read nothing for the others. A DynaKube that has become invalid keeps its names,
because nodes continue with its last valid state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from oneagent.common import agents, dynakube, logs
from oneagent.common.dynakube import DynaKube
from oneagent.common.dynakube.network_defaults import NO_DEFAULTS, NetworkDefaults
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, NotFoundError
from oneagent.common.tenant import inputs, tenant_secret
from oneagent.common.tenant.inputs import ObjectName
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

log = logging.getLogger(__name__)

ROLE: Final = "oneagent-csi-driver-dynakubes"
MAX_NAMES: Final = 1000
"""Names in the Role. API servers compare them one by one, and an object has a greatest size."""

GRANTED: Final = "NodesMayRead"
NOT_MANAGED: Final = "RoleNotManaged"
FULL: Final = "RoleFull"

_RESYNC_SECONDS: Final = 300.0
_RETRY_SECONDS: Final = 10.0
_NOT_MANAGED_SECONDS: Final = 60.0
_RESOURCES: Final = {"Secret": "secrets", "ConfigMap": "configmaps"}


class NodeAccess:
    """For one event loop. `resync` is a periodic task."""

    condition = "NodeAccess"

    def __init__(
        self, server: api.Api, namespace: str, cache: Cache, network_defaults: NetworkDefaults = NO_DEFAULTS
    ) -> None:
        self._api, self._namespace, self._cache = server, namespace, cache
        self._network_defaults = network_defaults
        self._named: dict[DynaKubeName, frozenset[ObjectName]] | None = None
        """By DynaKube; None before all that exist have been read, since a Role with fewer would lock nodes out."""
        self._left_out: frozenset[DynaKubeName] = frozenset()
        """DynaKubes whose names do not fit into the Role."""
        self._rules: list[dict[str, Any]] | None = None
        """Rules of the Role; None if unknown."""
        self._lock = asyncio.Lock()

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        kube = context.dynakube
        needed, kind = _needed(kube), agents.kind_of_object(kube.name)
        if not context.cache.csi_installed:
            return None
        try:
            await self._set(kube.name, needed)
        except (NotFoundError, ForbiddenError) as error:
            return _not_managed(error) if needed else None
        if not needed:
            return None
        if kube.name in self._left_out:
            message = f"the Role {ROLE} has its {MAX_NAMES} names, so nodes cannot read those of this {kind}"
            remedy = "delete older DynaKubes, or have several name the same Secrets"
            return reconcile_result.failed(FULL, f"{message}: {remedy}", _RESYNC_SECONDS)
        return reconcile_result.ok(GRANTED, f"nodes may read the Secrets and ConfigMaps that this {kind} names")

    async def finalize(self, context: ReconcileContext) -> None:
        """Revoke at once; what fails here is repeated by `resync`, so that the DynaKube can go."""
        try:
            await self._set(context.dynakube.name, frozenset())
        except ApiError as error:
            _log_failure(error)

    async def resync(self) -> float:
        """Undo changes by others, and revoke what no DynaKube names any more; return the seconds until the next run."""
        if not self._cache.csi_installed:
            return _RESYNC_SECONDS
        try:
            async with self._lock:
                role = await self._api.find(api.ROLES, ROLE, self._namespace)
                if role is None:
                    raise NotFoundError(f"the Role {ROLE} does not exist")
                self._rules = role.get("rules") or []
                await self._write(self._load())
        except ApiError as error:
            _log_failure(error)
            return _NOT_MANAGED_SECONDS if isinstance(error, NotFoundError | ForbiddenError) else _RETRY_SECONDS
        return _RESYNC_SECONDS

    async def _set(self, name: DynaKubeName, objects: frozenset[ObjectName]) -> None:
        """Have the Role name the objects of a DynaKube; `ApiError`."""
        async with self._lock:
            named = self._load()
            if named.get(name) != objects or self._rules is None:
                named[name] = objects
                await self._write(named)

    def _load(self) -> dict[DynaKubeName, frozenset[ObjectName]]:
        """Return the objects by DynaKube; the first call reads all DynaKubes that exist."""
        if self._named is None:
            self._named = {}
            for name, obj in self._cache.dynakubes.items():
                with contextlib.suppress(fields.FieldError):
                    if "deletionTimestamp" not in obj["metadata"]:
                        self._named[name] = _needed(self._network_defaults.apply(dynakube.from_object(obj)))
        return self._named

    async def _write(self, named: dict[DynaKubeName, frozenset[ObjectName]]) -> None:
        """Write the Role if it is not as it should be. Under the lock."""
        for gone in named.keys() - self._cache.dynakubes.keys():
            del named[gone]
        chosen, self._left_out = self._choose(named)
        rules = build_rules(chosen)
        if rules != self._rules:
            self._rules = None
            await self._api.merge(api.ROLES, ROLE, {"rules": rules}, self._namespace)
            self._rules = rules
            log.info("node access updated", extra=logs.fields(role=ROLE, names=len(chosen)))

    def _choose(
        self, named: dict[DynaKubeName, frozenset[ObjectName]]
    ) -> tuple[frozenset[ObjectName], frozenset[DynaKubeName]]:
        """Return the objects that fit into the Role, those of older DynaKubes first, and the DynaKubes left out."""
        chosen, left_out = frozenset[ObjectName](), set[DynaKubeName]()
        for name in sorted(named, key=self._age):
            if len(chosen | named[name]) <= MAX_NAMES:
                chosen |= named[name]
            else:
                left_out.add(name)
        return chosen, frozenset(left_out)

    def _age(self, name: DynaKubeName) -> tuple[str, str]:
        return str(self._cache.dynakubes[name]["metadata"].get("creationTimestamp", "")), name


def build_rules(objects: Iterable[ObjectName]) -> list[dict[str, Any]]:
    """Return the rules that allow to read exactly these objects."""
    rules = []
    for kind, plural in _RESOURCES.items():
        # A rule without names would be for all objects.
        if names := sorted(name for named_kind, name in objects if named_kind == kind):
            rules.append({"apiGroups": [""], "resources": [plural], "resourceNames": names, "verbs": ["get"]})
    return rules


def _needed(kube: DynaKube) -> frozenset[ObjectName]:
    if not kube.needs_views:
        return frozenset()
    answers: set[ObjectName] = {("Secret", tenant_secret.name(kube.name))} if kube.api_url else set()
    return inputs.named_objects(kube) | answers


def _not_managed(error: ApiError) -> ReconcileResult:
    """No failure: manifests of an older version, which lack the Role, let nodes read all Secrets."""
    message = f"nodes need another Role than {ROLE}, which the operator cannot write ({error})"
    remedy = "apply the manifests or the chart of this version"
    return replace(reconcile_result.ok(NOT_MANAGED, f"{message}: {remedy}"), requeue_seconds=_NOT_MANAGED_SECONDS)


def _log_failure(error: ApiError) -> None:
    log.warning("node access update failed", extra=logs.fields(role=ROLE, reason=error))
