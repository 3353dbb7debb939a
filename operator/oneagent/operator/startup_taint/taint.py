"""The startup taint: nodes come with it, so that no pod is put there before the agent is.

A taint is told from others by its key and effect, as Kubernetes does; its value is its giver's affair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_FORM: Final = re.compile(
    r"(?P<key>(?:[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
    r":(?P<effect>NoSchedule|PreferNoSchedule|NoExecute)"
)
_FOREIGN: Final = re.compile(r"([-a-z0-9.]+\.)?(kubernetes\.io|k8s\.io)/.*")


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}:{self.effect}"

    def is_on(self, node: Mapping[str, Any]) -> bool:
        return any(self._is(taint) for taint in _taints(node))

    def removal(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """A merge patch that takes this taint off a node and leaves the others, if the node is still as it was read.

        A merge patch replaces the list as a whole. The resource version in it keeps what others add meanwhile.
        """
        others = [taint for taint in _taints(node) if not self._is(taint)]
        version = node["metadata"]["resourceVersion"]
        return {"metadata": {"resourceVersion": version}, "spec": {"taints": others}}

    def _is(self, taint: Mapping[str, Any]) -> bool:
        return taint.get("key") == self.key and taint.get("effect") == self.effect


def parse(text: str) -> Taint | None:
    """A flag's value, as `example.com/not-ready:NoSchedule`; None for '', which is no taint. `ValueError`."""
    if not text:
        return None
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}: give KEY:EFFECT, such as oneagent.dynatrace.com/not-ready:NoSchedule")
    if _FOREIGN.fullmatch(found["key"]):
        raise ValueError(f"{text!r}: this taint is Kubernetes' own, which nobody else may remove")
    return Taint(found["key"], found["effect"])


def _taints(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (node.get("spec") or {}).get("taints") or []
