"""Versions that nodes could not install: one problem for all nodes with the same remedy, and none of its repeats.

A node's Lease reports a failure first. The operator makes a condition of the DynaKube of all Leases, minutes later if
only the number of nodes has changed, and the full report of a node has it again.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from oneagent.common import agents, node_lease, remedies
from oneagent.common.node_lease import DynaKubeReport
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.doctor import Finding, dynakubes, error
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot


def describe(kube: DynaKubeReport) -> str:
    """Return the problem of a node whose report has this failure."""
    named, version = agents.describe_object(kube.name), kube.version or "unknown"
    if kube.state == "refused":
        return f"{named}: its image is refused: {kube.message}"
    return f"{named}: version {version} can't be installed: {kube.message}"


@dataclass(slots=True)
class FailedVersions:
    """Failures of the nodes' Leases. Call `add` for each problem of a node, then the others."""

    cluster: ClusterSnapshot
    states: Mapping[str, node_lease.NodeReport]
    _nodes: dict[tuple[str, str], list[tuple[str, DynaKubeReport]]] = field(default_factory=dict)
    """Nodes by DynaKube and remedy, each with what it reports"""

    def add(self, node: str, problem: str) -> bool:
        """Add a problem if it is a failure; False if it is another one."""
        state = self.states.get(node)
        for kube in state.dynakubes if state is not None else ():
            if kube.state not in node_lease.PROBLEMS:
                continue
            if problem == describe(kube):
                _, remedy = dynakubes.explain_failure(kube.message, self._dynakube(kube.name), self.cluster)
                self._nodes.setdefault((kube.name, remedy), []).append((node, kube))
                return True
            if problem.startswith("version ") and kube.message and remedies.split(kube.message)[0] in problem:
                return True  # From the full report.
        return False

    def without_repeats(self, found: Iterable[Finding]) -> Iterator[Finding]:
        """Yield the findings without those of conditions that report the same failures."""
        causes: dict[str, set[str]] = collections.defaultdict(set)
        for (name, _), nodes in self._nodes.items():
            causes[name].update(remedies.split(kube.message)[0] for _, kube in nodes)
        for finding in found:
            for name, own in causes.items():
                start = f"{agents.describe_object(name)}: "
                is_same = any(cause and cause in finding.sentence for cause in own)
                if finding.sentence.startswith(f"{start}{dynakubes.ROLLOUT}: ") or (
                    finding.sentence.startswith(start) and is_same and not self._is_about_token(name)
                ):
                    break
            else:
                yield finding

    def findings(self, name_nodes: Callable[[list[str]], str]) -> Iterator[Finding]:
        """Yield a problem for each remedy, those of most nodes first."""
        for (name, remedy), nodes in sorted(self._nodes.items(), key=lambda item: -len(item[1])):
            ((kube, _),) = collections.Counter(kube for _, kube in nodes).most_common(1)
            if self._is_about_token(name) and remedies.is_about_token(kube.message):
                continue  # The condition of the token is a finding of its own.
            sentence = describe(replace(kube, message=remedies.split(kube.message)[0]))
            yield error("Nodes", f"{name_nodes([node for node, _ in nodes])}: {sentence}", remedy)

    def _is_about_token(self, name: str) -> bool:
        kube = self._dynakube(name)
        return kube is not None and dynakubes.is_token_refused(kube)

    def _dynakube(self, name: str) -> Object | None:
        return next((kube for kube in self.cluster.dynakubes if k8s_objects.name(kube) == name), None)
