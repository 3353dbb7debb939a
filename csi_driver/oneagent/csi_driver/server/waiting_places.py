"""Places for publishes that wait for their version: no pod and no namespace can take them all.

A waiting call occupies a thread, so their number is limited. Whoever may create pods could fill all places with
volumes whose version never comes, and pods of other namespaces would be refused. So a pod and a namespace have shares.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

PER_POD: Final = 8
"""Places of one pod, which needs one."""


class WaitingPlaces:
    """Thread-safe."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._per_namespace = max(total // 2, 1)
        self._guard = threading.Lock()
        self._taken = 0
        self._by_namespace: Counter[str] = Counter()
        self._by_pod: Counter[tuple[str, str]] = Counter()

    def reserve(self, namespace: str, pod: str) -> Place:
        """Return a place for one call, not taken yet. `pod` identifies the pod in its namespace."""
        return Place(self, namespace, pod)

    def take(self, namespace: str, pod: str) -> str:
        """Take a place; return why there is none, empty if it is taken."""
        with self._guard:
            if self._taken >= self._total:
                return f"{self._taken} other volumes are waiting"
            if self._by_namespace[namespace] >= self._per_namespace:
                return f"{self._per_namespace} other volumes are waiting of namespace {namespace}, which is its share"
            if self._by_pod[namespace, pod] >= PER_POD:
                return f"{PER_POD} other volumes are waiting of this pod, which is its share"
            self._add(namespace, pod, 1)
        return ""

    def release(self, namespace: str, pod: str) -> None:
        """Give a taken place back."""
        with self._guard:
            self._add(namespace, pod, -1)
            # Names that nothing waits for are forgotten: their number is not limited.
            if not self._by_namespace[namespace]:
                del self._by_namespace[namespace]
            if not self._by_pod[namespace, pod]:
                del self._by_pod[namespace, pod]

    def _add(self, namespace: str, pod: str, number: int) -> None:
        self._taken += number
        self._by_namespace[namespace] += number
        self._by_pod[namespace, pod] += number


class Place:
    """A place of one call, as a context manager that gives it back."""

    __slots__ = ("_is_taken", "_namespace", "_places", "_pod")

    def __init__(self, places: WaitingPlaces, namespace: str, pod: str) -> None:
        self._places = places
        self._namespace = namespace
        self._pod = pod
        self._is_taken = False

    def take(self) -> str:
        """Take the place unless it is taken; return why there is none."""
        if self._is_taken:
            return ""
        refusal = self._places.take(self._namespace, self._pod)
        self._is_taken = not refusal
        return refusal

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_taken:
            self._places.release(self._namespace, self._pod)
