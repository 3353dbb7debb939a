"""Labels each namespace with the DynaKube that owns it, and reports conflicting claims.

One mapper serves all DynaKubes, because a change of one may free a namespace for another. A changed namespace is
decided alone, a changed DynaKube for all namespaces. Decisions are in memory; the API server is written to only
where a label differs. Failed writes are retried with back-off.

It must not run before all DynaKubes have been listed: a label that names none of them is removed.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from oneagent.common import backoff, logs
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes.errors import ApiError, NotFoundError
from oneagent.operator import api
from oneagent.operator import cache as caches
from oneagent.operator.cache import Cache

log = logging.getLogger(__name__)

_WORKERS: Final = 16
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0


class NamespaceMapper:
    """`run` writes the labels. Not thread-safe: for one event loop."""

    def __init__(
        self,
        server: api.Api,
        cache: Cache,
        on_change: Callable[[DynaKubeName], None],
        on_release: Callable[[str], Awaitable[None]],
    ) -> None:
        """`on_change` is called with a DynaKube that has gained or lost namespaces.

        `on_release` is called with a namespace before its label is removed or changed. It holds the namespace's
        lock and may raise `ApiError`.
        """
        self.locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        """By namespace. A writer into a namespace must hold its lock and check `owns` under it."""
        self._api, self._cache, self._on_change, self._on_release = server, cache, on_change, on_release
        self._claims: dict[DynaKubeName, namespace_mapping.Claim | None] = {}
        self._decisions: dict[str, namespace_mapping.Decision] = {}
        self._dirty: set[str] = set()
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._woken = asyncio.Event()
        self._namespace_seen = asyncio.Event()
        self.problems: dict[str, str] = {}
        """By namespace: the error of the last attempt to write its label."""

    def load(self, claims: Mapping[DynaKubeName, namespace_mapping.Claim | None]) -> None:
        """Take the claims of all DynaKubes at start; decided together, so that the oldest wins."""
        self._claims.update(claims)
        self._decide_all()

    def set_claim(self, dynakube: DynaKubeName, claim: namespace_mapping.Claim | None) -> None:
        """Replace the claim of a DynaKube; None for no claim."""
        if dynakube not in self._claims or self._claims[dynakube] != claim:
            self._claims[dynakube] = claim
            self._decide_all()

    def forget(self, dynakube: DynaKubeName) -> None:
        """Remove a DynaKube that was deleted."""
        self._claims.pop(dynakube, None)
        self._decide_all()

    def is_labelled(self, namespace: str, dynakube: DynaKubeName) -> bool:
        seen = self._cache.namespaces.get(namespace)
        return seen is not None and seen.labels.get(namespace_mapping.LABEL) == dynakube

    def on_namespace(self, namespace: str) -> None:
        """Decide a namespace that was added, changed or deleted."""
        self._namespace_seen.set()
        before = self._decisions.get(namespace, namespace_mapping.Decision(None))
        now = self._decide(namespace)
        self._notify((before, now))

    def owns(self, dynakube: DynaKubeName, namespace: str) -> bool:
        """True if both the decision and the label on the namespace name the DynaKube."""
        decision, seen = self._decisions.get(namespace), self._cache.namespaces.get(namespace)
        if decision is None or seen is None:
            return False
        return decision.owner == dynakube == seen.labels.get(namespace_mapping.LABEL)

    def namespaces_of(self, dynakube: DynaKubeName) -> list[str]:
        return sorted(name for name, decision in self._decisions.items() if decision.owner == dynakube)

    def conflicts(self, dynakube: DynaKubeName) -> dict[str, DynaKubeName]:
        """Return the namespaces that a DynaKube claims but another one owns, with the owner."""
        return {
            name: decision.owner
            for name, decision in sorted(self._decisions.items())
            if dynakube in decision.refused and decision.owner is not None
        }

    def is_synced(self, dynakube: DynaKubeName) -> bool:
        """True if exactly the namespaces of the DynaKube have its label."""
        for name, namespace in self._cache.namespaces.items():
            decision = self._decisions.get(name)
            should = decision is not None and decision.owner == dynakube
            if not namespace.terminating and (namespace.labels.get(namespace_mapping.LABEL) == dynakube) != should:
                return False
        return True

    async def wait_until_synced(self, dynakube: DynaKubeName) -> None:
        """Return once the watch has shown every label of a DynaKube as decided."""
        while not self.is_synced(dynakube):
            self._namespace_seen.clear()
            await self._namespace_seen.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())

    def _decide_all(self) -> None:
        before = dict(self._decisions)
        for name in {*self._cache.namespaces, *before}:
            self._decide(name)
        changed = [name for name in {*self._decisions, *before} if before.get(name) != self._decisions.get(name)]
        self._notify(decision for name in changed for decision in (before.get(name), self._decisions.get(name)))

    def _notify(self, decisions: Iterable[namespace_mapping.Decision | None]) -> None:
        """Wake the workers of all DynaKubes in the decisions."""
        for dynakube in {name for decision in decisions if decision for name in (decision.owner, *decision.refused)}:
            if dynakube is not None:
                self._on_change(dynakube)

    def _decide(self, name: str) -> namespace_mapping.Decision:
        namespace = self._cache.namespaces.get(name)
        if namespace is None or namespace.terminating:
            self._decisions.pop(name, None)
            self.problems.pop(name, None)
            self._failures.pop(name, None)
            if name in self.locks and not self.locks[name].locked():
                del self.locks[name]
            return namespace_mapping.Decision(None)
        decision = self._owner_of(name, namespace.labels)
        if decision.owner is None:
            self._decisions.pop(name, None)
        else:
            self._decisions[name] = decision
        if namespace.labels.get(namespace_mapping.LABEL) != decision.owner:
            self._dirty.add(name)
            self._woken.set()
        return decision

    def _owner_of(self, name: str, labels: Mapping[str, str]) -> namespace_mapping.Decision:
        current = DynaKubeName(labels.get(namespace_mapping.LABEL, ""))
        if current in self._cache.dynakubes and current not in self._claims:
            # Its claim is unknown just after a start, or because its selector is invalid. It keeps its namespaces.
            return namespace_mapping.Decision(current)
        return namespace_mapping.decide(name, labels, (claim for claim in self._claims.values() if claim))

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            if not self._dirty:
                self._woken.clear()
                continue
            await self._write(self._dirty.pop())

    async def _write(self, name: str) -> None:
        try:
            async with self.locks[name]:
                await self._update_label(name)
        except NotFoundError:
            return
        except ApiError as error:
            self.problems[name] = str(error)
            self._failures[name] = self._failures.get(name, 0) + 1
            pause = backoff.exponential(self._failures[name], _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            log.warning("namespace label update failed", extra=logs.fields(namespace=name, reason=error))
            if name not in self._retries:
                self._retries[name] = asyncio.get_running_loop().call_later(pause, self._retry, name)
            return
        self.problems.pop(name, None)
        self._failures.pop(name, None)

    async def _update_label(self, name: str) -> None:
        """Write the label of a namespace as decided."""
        namespace = self._cache.namespaces.get(name)
        if namespace is None or namespace.terminating:
            return
        decision = self._decisions.get(name)
        owner = decision.owner if decision else None
        if namespace.labels.get(namespace_mapping.LABEL) == owner:
            return
        if namespace_mapping.LABEL in namespace.labels:
            await self._on_release(name)
        updated = await self._api.merge(
            api.NAMESPACES, name, {"metadata": {"labels": {namespace_mapping.LABEL: owner}}}
        )
        # Without waiting for the watch: under this lock the removed label must not be seen any more.
        self._cache.namespaces[name] = caches.namespace(updated)
        log.info("namespace labelled", extra=logs.fields(namespace=name, dynakube=owner or None))
        self.on_namespace(name)

    def _retry(self, name: str) -> None:
        self._retries.pop(name, None)
        self._dirty.add(name)
        self._woken.set()
