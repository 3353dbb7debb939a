"""The interface of reconcilers: their input for one run, and their methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from oneagent.common.agents import objects
from oneagent.common.dynakube import DynaKube
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_result import ReconcileResult


@dataclass(frozen=True, slots=True)
class ReconcileContext:
    """One DynaKube and the state of the cluster, for one run of its reconcilers."""

    obj: Mapping[str, Any]
    """The DynaKube as the API server has it, in the newest version."""
    dynakube: DynaKube
    namespace: str
    """The operator's own, which is the DynaKubes'."""
    api: api.Api
    cache: Cache
    tenant_state: TenantState
    now: float
    """Seconds since the epoch."""
    results: Mapping[str, ReconcileResult]
    """Results of the reconcilers that have run before, by condition type."""

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the status, with the values of this run's results."""
        before = self.status.get(name)
        section = dict(before) if isinstance(before, Mapping) else {}
        for result in self.results.values():
            section.update(result.fields.get(name, {}))
        return section

    @property
    def status(self) -> Mapping[str, Any]:
        status = self.obj.get("status")
        return status if isinstance(status, Mapping) else {}

    @property
    def owner(self) -> dict[str, Any]:
        """Owner reference for objects that are deleted with the DynaKube.

        It does not block the DynaKube's deletion: the admission of references that do refuses them for some seconds
        after the definition of DynaKubes has come.
        """
        return {
            "apiVersion": self.obj["apiVersion"],
            "kind": self.obj["kind"],
            "name": objects.name_of(self.dynakube.name),
            "uid": self.dynakube.uid,
            "controller": True,
        }


class Reconciler(Protocol):
    condition: str
    """Type of its condition."""

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        """Make the actual state the desired one; None if it does not apply to this DynaKube.

        Never waits for a tenant.
        """
        ...

    async def finalize(self, context: ReconcileContext) -> None:
        """Remove what has no owner reference to the deleted DynaKube. Idempotent."""
        ...
