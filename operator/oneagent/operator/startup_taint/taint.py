"""The startup taint: new nodes have it, so that no pod is scheduled there before the agent is ready.

A taint is identified by key and effect, as in Kubernetes; its value is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_PATTERN: Final = re.compile(
    r"(?P<key>(?:[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
    r":(?P<effect>NoSchedule|PreferNoSchedule|NoExecute)"
)
_RESERVED: Final = re.compile(r"([-a-z0-9.]+\.)?(kubernetes\.io|k8s\.io)/.*")


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}:{self.effect}"

    def is_on(self, node: Mapping[str, Any]) -> bool:
        return any(self._is(taint) for taint in _taints(node))

    def removal_patch(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return a merge patch that removes this taint from an unchanged node.

        A merge patch replaces the whole list. The resourceVersion in it makes the patch fail if another client has
        changed the node meanwhile.
        """
        others = [taint for taint in _taints(node) if not self._is(taint)]
        version = node["metadata"]["resourceVersion"]
        return {"metadata": {"resourceVersion": version}, "spec": {"taints": others}}

    def _is(self, taint: Mapping[str, Any]) -> bool:
        return taint.get("key") == self.key and taint.get("effect") == self.effect


def parse(text: str) -> Taint | None:
    """Parse a flag such as `example.com/not-ready:NoSchedule`; None if empty. `ValueError`."""
    if not text:
        return None
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: give KEY:EFFECT, such as oneagent.dynatrace.com/not-ready:NoSchedule")
    if _RESERVED.fullmatch(match["key"]):
        raise ValueError(f"{text!r}: this taint is reserved for Kubernetes; choose a key of your own")
    return Taint(match["key"], match["effect"])


def _taints(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (node.get("spec") or {}).get("taints") or []
