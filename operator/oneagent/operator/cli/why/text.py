"""Text of `kubectl oneagent why`: the diagnosis first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.common import agents, identifiers, terminal
from oneagent.common.node_report import Diagnosis
from oneagent.common.terminal import Column, Screen
from oneagent.operator.cli import why
from oneagent.operator.cli.why import Evidence
from oneagent.operator.cli.why.workload import TargetDiagnosis

_LABEL: Final = 11
_COLUMNS: Final = (Column("pod"), Column("reason"), Column("node", 1))


def render_result(result: TargetDiagnosis, screen: Screen) -> Iterator[str]:
    """Yield the lines about a pod; of a workload its pods in a table, and the worst of them."""
    if result.workload and result.pods[0][0].exists:
        rows = ((evidence.pod, diagnosis.reason, evidence.node) for evidence, diagnosis in result.pods)
        yield from terminal.table(_COLUMNS, rows, screen)
        if result.left_out:
            yield f"and {result.left_out} older pods"
        yield ""
    yield from render(*result.pods[0], screen)


def render(evidence: Evidence, diagnosis: Diagnosis, screen: Screen) -> Iterator[str]:
    """Yield the diagnosis and its remedy as sentences, then the evidence."""
    style = "green" if diagnosis.reason in why.AS_INTENDED else "yellow" if diagnosis.reason in why.UNKNOWN else "red"
    for line in screen.wrap(f"{diagnosis.sentence[0].upper()}{diagnosis.sentence[1:].rstrip('.')}."):
        yield screen.paint(line, style)
    if diagnosis.remedy:
        yield from screen.remedy(diagnosis.remedy, "What to do: ", " " * _LABEL, end=".")
    yield ""
    for label, text in _evidence(evidence):
        yield from screen.wrap(text, f"{label:<{_LABEL}}", " " * _LABEL)


def _evidence(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.exists:
        place = f"on node {evidence.node}" if evidence.node else "not scheduled"
        yield "pod", f"{evidence.phase or 'unknown'}{', being deleted' if evidence.is_deleting else ''}, {place}"
    if evidence.owner is not None:
        owner = evidence.owner.owner
        selector = f"by the selector of {agents.describe_object(owner)}" if owner else "by no selector"
        yield "namespace", f"label {evidence.owner.label or 'none'}, {selector}"
    if evidence.decision.injected is not None:
        reason = f" ({evidence.decision.reason})" if evidence.decision.reason else ""
        yield "webhook", "injected" if evidence.decision.injected else f"not injected{reason}"
    for annotation in evidence.decision.annotations:
        yield "annotation", annotation
    if (init := evidence.init) is not None:
        reason, message = f" ({init.reason})" if init.reason else "", f": {init.message}" if init.message else ""
        yield "init", f"{init.state}{reason}{message}"
        yield from (("log", line) for line in init.log.splitlines())
    yield from (("container", problem) for problem in evidence.container_problems)
    yield from _of_node(evidence)
    for event in evidence.events:
        times = f" ({event.count} times)" if event.count > 1 else ""
        yield "event", f"{event.about}: {event.reason}{times}: {event.message}"
    for problem in (*evidence.unread, *filter(None, [evidence.node_problem])):
        yield "not read", problem


def _of_node(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """The main parts of the node's report; JSON has all of it."""
    if evidence.on_node is None:
        return
    if (volume := evidence.on_node.evidence.volume) is not None:
        version = identifiers.agent_version(volume.version) or "none yet"
        yield "volume", f"{volume.state}, {agents.describe_object(volume.dynakube)}, version {version}"
    for process in evidence.on_node.evidence.processes:
        library = {True: "library loaded", False: "library not loaded", None: "maps can't be read"}[process.mapped]
        yield "process", f"{process.pid} {process.command}: {library}"
