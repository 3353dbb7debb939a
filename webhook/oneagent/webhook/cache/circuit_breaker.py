"""Circuit breaker: while injected pods would not start as they should, new pods are admitted without injection.

It opens for one of two reasons:

- The node driver does not exist, or is ready on no node for longer than a grace period, which outlasts an update.
- Within the window as many pods of a DynaKube got an empty view as the limit allows. The driver writes an Event
  about each such pod into its own namespace, and each pod counts once. On several nodes, the pods of a single node
  count for at most half of the limit: a fault of one node must not leave thousands of pods unmonitored.

The first closes as soon as the driver is ready. The second closes when no pod has failed for a whole window. Pods
without injection cannot fail, so the next injected pods are the trial.

Pure state, with a clock. For each DynaKube it stores as many pods as the limit, since more cannot change the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from oneagent.common.injection import contract

PAUSED: Final = "InjectionPaused"
RESUMED: Final = "InjectionResumed"
"""Reasons of the Events on a DynaKube"""


@dataclass(frozen=True, slots=True)
class Limits:
    failures: int = 10
    """Failed pods that open the breaker of their DynaKube; 0 disables it."""
    window_seconds: float = 300.0
    grace_seconds: float = 30.0
    """Longest time that the driver may be ready on no node."""


@dataclass(slots=True)
class _Failures:
    """Of one DynaKube."""

    pods: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Time of failure and node of the latest ones."""
    open_until: float = 0.0


class CircuitBreaker:
    def __init__(self, limits: Limits = Limits(), clock: Callable[[], float] = time.time) -> None:
        """The clock returns seconds since 1970, like the times of failures."""
        self._limits, self._clock = limits, clock
        self._failures: dict[str, _Failures] = {}
        self._nodes = 0
        self._down_since: float | None = None
        self._gone = False

    def update_driver(self, desired: int, ready: int) -> None:
        """Set the number of nodes on which the driver should run, and is ready."""
        self._gone = False
        self._nodes = desired
        if ready > 0 or desired == 0:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = self._clock()

    def remove_driver(self) -> None:
        self._gone = True
        self._down_since = None

    def record_failure(self, dynakube: str, pod: str, at: float, node: str = "") -> None:
        """Count a pod that got an empty view, by any unique name; repeats count once."""
        limit, window = self._limits.failures, self._limits.window_seconds
        now = self._clock()
        at = min(at, now)  # Clocks differ between nodes.
        if not limit or at <= now - window:
            return
        failures = self._failures.setdefault(dynakube, _Failures())
        pods = failures.pods
        pods[pod] = max(at, pods.get(pod, (0.0, ""))[0]), node
        for other in [other for other, (failed_at, _) in pods.items() if failed_at <= now - window]:
            del pods[other]
        same_node = [other for other, (_, pod_node) in pods.items() if pod_node == node]
        if node and self._nodes > 1 and len(same_node) > (limit + 1) // 2:
            del pods[min(same_node, key=pods.__getitem__)]
        if len(pods) > limit:
            del pods[min(pods, key=pods.__getitem__)]
        if len(pods) >= limit or now < failures.open_until:
            failures.open_until = max(failures.open_until, at + window)

    def retain(self, dynakubes: Collection[str]) -> None:
        """Forget all other DynaKubes."""
        for name in self._failures.keys() - set(dynakubes):
            del self._failures[name]

    def open_reason(self, dynakube: str) -> str:
        """Return the reason why the breaker is open for pods that need the driver; empty if it is closed."""
        now = self._clock()
        if self._gone:
            return "the node driver is not installed: its DaemonSet does not exist"
        if self._down_since is not None and now - self._down_since >= self._limits.grace_seconds:
            return f"the node driver is ready on none of its {self._nodes} nodes"
        failures = self._failures.get(dynakube)
        if failures is not None and now < failures.open_until:
            within = f"{self._limits.window_seconds / 60:g} minutes"
            return (
                f"{self._limits.failures} pods or more got no agent within {within}, "
                f"see their Events with the reason {contract.AGENT_NOT_MOUNTED}"
            )
        return ""
