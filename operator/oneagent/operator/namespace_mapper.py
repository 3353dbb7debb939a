"""Labels namespaces with the DynaKube that they belong to, and says who claims what.

Mapping is one concern of all DynaKubes together: a change of one may free a namespace for another. So there is
one mapper. A changed namespace is decided alone, a changed DynaKube for all namespaces; both only in memory, and
the API server is written to where the label is not what it should be. What fails is tried again, later and later.

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
from oneagent.operator import api, cache
from oneagent.operator.cache import Cache

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0


class Mapper:
    """`run` does the writing; the rest is called from the same event loop's thread."""

    def __init__(
        self,
        server: api.Api,
        seen: Cache,
        changed: Callable[[DynaKubeName], None],
        leave: Callable[[str], Awaitable[None]],
    ) -> None:
        """`changed` is called with a DynaKube whose namespaces are others than before; `leave` with a namespace,
        under its lock, before its label goes or names another DynaKube; may raise `ApiError`."""
        self.locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        """Who puts something into a namespace because of its label holds its lock, and looks at `has` under it."""
        self._api, self._observed, self._changed, self._leave = server, seen, changed, leave
        self._claims: dict[DynaKubeName, namespace_mapping.Claim | None] = {}
        self._decisions: dict[str, namespace_mapping.Decision] = {}
        self._dirty: set[str] = set()
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self.problems: dict[str, str] = {}
        """By namespace: why its label is not what it should be."""

    def begin(self, claims: Mapping[DynaKubeName, namespace_mapping.Claim | None]) -> None:
        """What all DynaKubes claim at the start: decided together, so that the oldest comes first."""
        self._claims.update(claims)
        self._decide_all()

    def claim(self, dynakube: DynaKubeName, claim: namespace_mapping.Claim | None) -> None:
        """What a DynaKube claims now; None for nothing."""
        if dynakube not in self._claims or self._claims[dynakube] != claim:
            self._claims[dynakube] = claim
            self._decide_all()

    def forget(self, dynakube: DynaKubeName) -> None:
        """There is no such DynaKube any more."""
        self._claims.pop(dynakube, None)
        self._decide_all()

    def labelled(self, namespace: str, dynakube: DynaKubeName) -> bool:
        seen = self._observed.namespaces.get(namespace)
        return seen is not None and seen.labels.get(namespace_mapping.LABEL) == dynakube

    def look(self, namespace: str) -> None:
        """A namespace has come, changed or gone."""
        self._moved.set()
        before = self._decisions.get(namespace, namespace_mapping.Decision(None))
        now = self._decide(namespace)
        self._tell((before, now))

    def has(self, dynakube: DynaKubeName, namespace: str) -> bool:
        """Whether a namespace is a DynaKube's, by the decision and by the label that is on it."""
        decision, seen = self._decisions.get(namespace), self._observed.namespaces.get(namespace)
        if decision is None or seen is None:
            return False
        return decision.owner == dynakube == seen.labels.get(namespace_mapping.LABEL)

    def owned(self, dynakube: DynaKubeName) -> list[str]:
        return sorted(name for name, decision in self._decisions.items() if decision.owner == dynakube)

    def refused(self, dynakube: DynaKubeName) -> dict[str, DynaKubeName]:
        """The namespaces that a DynaKube claims and another has, and which."""
        return {
            name: decision.owner
            for name, decision in sorted(self._decisions.items())
            if dynakube in decision.refused and decision.owner is not None
        }

    def settled(self, dynakube: DynaKubeName) -> bool:
        """Whether no label names a DynaKube that it should not, and every label that should does."""
        for name, namespace in self._observed.namespaces.items():
            decision = self._decisions.get(name)
            should = decision is not None and decision.owner == dynakube
            if not namespace.terminating and (namespace.labels.get(namespace_mapping.LABEL) == dynakube) != should:
                return False
        return True

    async def wait_settled(self, dynakube: DynaKubeName) -> None:
        """Until the watch has seen every label of a DynaKube as it should be."""
        while not self.settled(dynakube):
            self._moved.clear()
            await self._moved.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())

    def _decide_all(self) -> None:
        before = dict(self._decisions)
        for name in {*self._observed.namespaces, *before}:
            self._decide(name)
        changed = [name for name in {*self._decisions, *before} if before.get(name) != self._decisions.get(name)]
        self._tell(decision for name in changed for decision in (before.get(name), self._decisions.get(name)))

    def _tell(self, decisions: Iterable[namespace_mapping.Decision | None]) -> None:
        """Wake everybody whom these decisions concern."""
        for dynakube in {name for decision in decisions if decision for name in (decision.owner, *decision.refused)}:
            if dynakube is not None:
                self._changed(dynakube)

    def _decide(self, name: str) -> namespace_mapping.Decision:
        namespace = self._observed.namespaces.get(name)
        if namespace is None or namespace.terminating:
            self._decisions.pop(name, None)
            self.problems.pop(name, None)
            self._failures.pop(name, None)
            if name in self.locks and not self.locks[name].locked():
                del self.locks[name]
            return namespace_mapping.Decision(None)
        decision = self._decided(name, namespace.labels)
        if decision.owner is None:
            self._decisions.pop(name, None)
        else:
            self._decisions[name] = decision
        if namespace.labels.get(namespace_mapping.LABEL) != decision.owner:
            self._dirty.add(name)
            self._wake.set()
        return decision

    def _decided(self, name: str, labels: Mapping[str, str]) -> namespace_mapping.Decision:
        has = DynaKubeName(labels.get(namespace_mapping.LABEL, ""))
        if has in self._observed.dynakubes and has not in self._claims:
            # Just after a start, or because its selector can't be read, its claim is not known. It keeps what it has.
            return namespace_mapping.Decision(has)
        return namespace_mapping.decide(name, labels, (claim for claim in self._claims.values() if claim))

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            if not self._dirty:
                self._wake.clear()
                continue
            await self._write(self._dirty.pop())

    async def _write(self, name: str) -> None:
        try:
            async with self.locks[name]:
                await self._put(name)
        except api.NotFoundError:
            return
        except api.ApiError as error:
            self.problems[name] = str(error)
            self._failures[name] = self._failures.get(name, 0) + 1
            pause = backoff.exponential(self._failures[name], _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            log.warning("a namespace is not labelled yet", extra=logs.facts(namespace=name, reason=error))
            if name not in self._retries:
                self._retries[name] = asyncio.get_running_loop().call_later(pause, self._again, name)
            return
        self.problems.pop(name, None)
        self._failures.pop(name, None)

    async def _put(self, name: str) -> None:
        """Make a namespace's label what it should be now."""
        namespace = self._observed.namespaces.get(name)
        if namespace is None or namespace.terminating:
            return
        decision = self._decisions.get(name)
        owner = decision.owner if decision else None
        if namespace.labels.get(namespace_mapping.LABEL) == owner:
            return
        if namespace_mapping.LABEL in namespace.labels:
            await self._leave(name)
        now = await self._api.merge(api.NAMESPACES, name, {"metadata": {"labels": {namespace_mapping.LABEL: owner}}})
        # Not left to the watch: under this lock nobody may see the label that has just gone.
        self._observed.namespaces[name] = cache.namespace(now)
        log.info("namespace labelled", extra=logs.facts(namespace=name, dynakube=owner or "nobody"))
        self.look(name)

    def _again(self, name: str) -> None:
        self._retries.pop(name, None)
        self._dirty.add(name)
        self._wake.set()
