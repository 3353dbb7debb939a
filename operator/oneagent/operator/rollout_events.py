"""Events about DynaKubes, from the reports of all nodes: one with the number of nodes, instead of one from each node.

Reports that arrive together are counted together: `reconcile` is a periodic task. Another Event about the same version
follows when all nodes have it, and otherwise after minutes. So a rollout writes a few Events however many nodes there
are. Failures that last are repeated before the API server forgets their Event.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from oneagent.common import node_lease
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import events
from oneagent.common.node_lease import Corruption, DynaKubeReport
from oneagent.operator.cache import Cache
from oneagent.operator.events import RecordEvent

CONDITION: Final = "AgentRollout"
"""Condition of a DynaKube that follows the same reports"""
INSTALLED: Final = "InstallAgentVersion"
FAILED: Final = "FailedInstallAgentVersion"
REFUSED: Final = "RefusedAgentImage"
CORRUPT: Final = "CorruptAgentVersion"

PROBLEMS: Final = frozenset({FAILED, REFUSED})
"""Reasons of tallies that make a DynaKube not ready."""

INTERVAL_SECONDS: Final = 10.0
_PROGRESS_SECONDS: Final = 300.0
"""Between two Events about the same state of the same version."""
_REPEAT_SECONDS: Final = 3000.0
"""The API server deletes Events after an hour."""
_RECENT_SECONDS: Final = 3600.0
"""A corruption before that is known, also to an operator that was started since."""
_REASONS: Final[Mapping[str, str]] = {"ready": INSTALLED, "failed": FAILED, "refused": REFUSED}


@dataclass(frozen=True, slots=True)
class Tally:
    """Nodes with the same state of the same version."""

    reason: str
    version: str
    nodes: int
    of: int
    """Nodes that report the DynaKube."""
    example: str = ""
    """A node and its message."""

    @property
    def is_complete(self) -> bool:
        return self.nodes == self.of

    @property
    def message(self) -> str:
        number = f"{self.nodes} of {self.of} nodes"
        if self.reason == INSTALLED:
            return f"Agent version {self.version} is on {number}"
        if self.reason == CORRUPT:
            return (
                f"Agent version {self.version} was corrupted on {number}, as on {self.example}. It is "
                "installed again; pods that were started before have the corrupt files until they are restarted"
            )
        what = "image was refused" if self.reason == REFUSED else f"version {self.version} was not installed"
        return f"Agent {what} on {number}, as on {self.example}"


@dataclass(slots=True)
class _Written:
    message: str
    at: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class _Shown:
    """Failures that the condition of a DynaKube's rollout shows."""

    failed: frozenset[Tally] = frozenset()
    at: float = float("-inf")


class RolloutEvents:
    """For one event loop."""

    def __init__(
        self,
        cache: Cache,
        record_event: RecordEvent,
        wake: Callable[[DynaKubeName], None] = lambda _name: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._record_event, self._clock, self._now = cache, record_event, clock, now
        self._written: dict[tuple[DynaKubeName, str, str], _Written] = {}
        """By DynaKube, reason and version."""
        self._is_first = True
        self._wake = wake
        """Called for a DynaKube when its failed nodes change, for the condition of its rollout."""
        self._shown: dict[DynaKubeName, _Shown] = {}

    async def reconcile(self) -> float:
        """Record the Events that are due; return the seconds until the next run."""
        found = {
            (name, tally.reason, tally.version): tally
            for name in self._cache.dynakubes
            for tally in tallies(name, self._cache, self._now() - _RECENT_SECONDS)
        }
        for name in self._cache.dynakubes:
            failed = {tally for key, tally in found.items() if key[0] == name and tally.reason in PROBLEMS}
            self._show(name, frozenset(failed))
        for name in self._shown.keys() - self._cache.dynakubes.keys():
            del self._shown[name]
        for key in self._written.keys() - found.keys():
            del self._written[key]
        for key, tally in found.items():
            if self._is_due(tally, self._written.get(key)):
                kind: events.Kind = "Normal" if tally.reason == INSTALLED else "Warning"
                # A state that an operator finds at its start is no news, unless it is a problem.
                if kind == "Warning" or not self._is_first:
                    self._record_event(self._cache.dynakubes[key[0]], kind, tally.reason, tally.message)
                self._written[key] = _Written(tally.message, self._clock(), tally.is_complete)
        self._is_first = self._is_first and not self._cache.node_reports
        return INTERVAL_SECONDS

    def _show(self, name: DynaKubeName, failed: frozenset[Tally]) -> None:
        """Wake a DynaKube whose failed nodes have changed; for other numbers of the same failure after minutes only.

        Its status goes to the watch of every node.
        """
        shown, now = self._shown.get(name, _Shown()), self._clock()
        if failed == shown.failed:
            return
        is_same = {(tally.reason, tally.version) for tally in failed} == {
            (tally.reason, tally.version) for tally in shown.failed
        }
        if (
            is_same
            and now - shown.at < _PROGRESS_SECONDS
            and not any(tally.is_complete for tally in failed - shown.failed)
        ):
            return
        self._shown[name] = _Shown(failed, now)
        self._wake(name)

    def _is_due(self, tally: Tally, written: _Written | None) -> bool:
        if written is None:
            return True
        age = self._clock() - written.at
        if tally.reason == INSTALLED:
            # Nodes that are added later are no news.
            return not written.is_complete and (
                tally.is_complete or (written.message != tally.message and age >= _PROGRESS_SECONDS)
            )
        if tally.reason == CORRUPT:
            return written.message != tally.message and age >= _PROGRESS_SECONDS
        return age >= (_PROGRESS_SECONDS if written.message != tally.message else _REPEAT_SECONDS)


def tallies(name: DynaKubeName, cache: Cache, since: float) -> Iterator[Tally]:
    """Count the states of a DynaKube, and corruptions `since` then of its versions."""
    found: dict[tuple[str, str], list[tuple[str, DynaKubeReport]]] = collections.defaultdict(list)
    corrupt: dict[str, list[tuple[str, Corruption]]] = collections.defaultdict(list)
    of = 0
    for lease, report in cache.node_reports.items():
        node = lease.removeprefix(node_lease.PREFIX)
        own = next((kube for kube in report.dynakubes if kube.name == name), None)
        if own is None:
            continue
        of += 1
        if own.state in _REASONS:
            found[_REASONS[own.state], own.version].append((node, own))
        for one in report.corruptions:
            if one.version == own.version and one.at >= since:
                corrupt[one.version].append((node, one))
    for (reason, version), reports in found.items():
        yield Tally(reason, version, len(reports), of, _example([(node, kube.message) for node, kube in reports]))
    for version, corruptions in corrupt.items():
        nodes = {node for node, _ in corruptions}
        yield Tally(CORRUPT, version, len(nodes), of, _example([(node, one.message) for node, one in corruptions]))


def _example(messages: list[tuple[str, str]]) -> str:
    """The commonest message, and the first node with it."""
    (commonest, _), *_ = collections.Counter(message for _, message in messages).most_common(1)
    node = min(node for node, message in messages if message == commonest)
    return f"{node}: {commonest}"
