"""Types of the cluster ring's fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tests.cluster.kubectl import Manifest

T = TypeVar("T")


class WaitFor(Protocol):
    def __call__(self, condition: Callable[[], T], what: str, within: float = ..., every: float = ...) -> T:
        """The first true answer; the test fails after `within` seconds, saying `what` was waited for in vain."""
        ...


class Apply(Protocol):
    def __call__(self, *manifests: Manifest) -> None:
        """Apply to the cluster; gone again after the test."""
        ...


class Running(Protocol):
    def __call__(self, namespace: str, name: str, within: float = ...) -> dict[str, Any]:
        """Wait until a pod runs; the pod."""
        ...


class Release(Protocol):
    def __call__(self, filler: int = ...) -> str:
        """Release a version that no other test has used; `filler` bytes make its download longer."""
        ...
