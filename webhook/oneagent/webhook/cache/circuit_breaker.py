"""The circuit breaker: while injected pods could not start as they should, new ones go through unchanged.

It opens for a reason that it can name in a sentence:

- there is no node driver, or it has been ready on no node for longer than a grace period (an update takes less);
- pods of a DynaKube got an empty view, as many within the window as the limit says. That is told by the Events that
  the driver leaves on such pods, each pod counted once. Where there are more nodes than one, those of a single node
  count for half of the limit at most: what is wrong with one node must not leave thousands unmonitored.

The first closes as soon as the driver is back. The second closes by itself when no pod has failed for a whole
window; as new pods go through unchanged there is nothing that could fail anew, so then the next pods are the trial.

Pure state: what happens is told by methods, the time comes from a clock. No more is remembered than the limit's
number of pods for each DynaKube, since more could not change the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import identifiers

PAUSED: Final = "InjectionPaused"
RESUMED: Final = "InjectionResumed"
"""Reasons of the Events on a DynaKube"""


@dataclass(frozen=True, slots=True)
class Limits:
    failures: int = 10
    """Pods without an agent that open the breaker of their DynaKube; 0: however many"""
    window_seconds: float = 300.0
    grace_seconds: float = 30.0
    """How long the driver may be ready on no node at all"""


@dataclass(slots=True)
class _Failures:
    """Of one DynaKube."""

    pods: dict[str, tuple[float, str]] = field(default_factory=dict)
    """When each failed, and on which node; the latest ones"""
    open_until: float = 0.0


class Breaker:
    def __init__(self, limits: Limits = Limits(), clock: Callable[[], float] = time.time) -> None:
        """The clock tells seconds since 1970, as the times of failures are in."""
        self._limits, self._clock = limits, clock
        self._failures: dict[str, _Failures] = {}
        self._nodes = 0
        self._down_since: float | None = None
        self._gone = False

    def driver_is(self, desired: int, ready: int) -> None:
        """On how many nodes the driver should be, and is."""
        self._gone = False
        self._nodes = desired
        if ready > 0 or desired == 0:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = self._clock()

    def driver_is_gone(self) -> None:
        self._gone = True
        self._down_since = None

    def failed(self, dynakube: str, pod: str, at: float, node: str = "") -> None:
        """A pod, told by anything unique, got an empty view; the same may be told again."""
        limit, window = self._limits.failures, self._limits.window_seconds
        now = self._clock()
        at = min(at, now)  # Clocks differ between nodes.
        if not limit or at <= now - window:
            return
        failures = self._failures.setdefault(dynakube, _Failures())
        pods = failures.pods
        pods[pod] = max(at, pods.get(pod, (0.0, ""))[0]), node
        for other in [other for other, (then, _) in pods.items() if then <= now - window]:
            del pods[other]
        beside = [other for other, (_, where) in pods.items() if where == node]
        if node and self._nodes > 1 and len(beside) > (limit + 1) // 2:
            del pods[min(beside, key=pods.__getitem__)]
        if len(pods) > limit:
            del pods[min(pods, key=pods.__getitem__)]
        if len(pods) >= limit or now < failures.open_until:
            failures.open_until = max(failures.open_until, at + window)

    def keep(self, dynakubes: Collection[str]) -> None:
        """Forget all others."""
        for name in self._failures.keys() - set(dynakubes):
            del self._failures[name]

    def trouble(self, dynakube: str) -> str:
        """Why pods of a DynaKube that need the driver go through unchanged; empty if they don't."""
        now = self._clock()
        if self._gone:
            return "the node driver is not installed, its DaemonSet is not there"
        if self._down_since is not None and now - self._down_since >= self._limits.grace_seconds:
            return f"the node driver is ready on none of its {self._nodes} nodes"
        failures = self._failures.get(dynakube)
        if failures is not None and now < failures.open_until:
            within = f"{self._limits.window_seconds / 60:g} minutes"
            return (
                f"{self._limits.failures} pods or more got no agent within {within}, "
                f"see their Events with the reason {identifiers.AGENT_NOT_MOUNTED}"
            )
        return ""
