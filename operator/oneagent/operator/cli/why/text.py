"""Text of `kubectl oneagent why`: the diagnosis first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator

from oneagent.common import identifiers, printable
from oneagent.common.node_report import Diagnosis
from oneagent.operator.cli.why import Evidence


def render(evidence: Evidence, diagnosis: Diagnosis) -> str:
    """Return the text."""
    return "".join(f"{printable.mask(line)}\n" for line in _lines(evidence, diagnosis))


def _lines(evidence: Evidence, diagnosis: Diagnosis) -> Iterator[str]:
    yield f"{diagnosis.sentence[0].upper()}{diagnosis.sentence[1:]}."
    if diagnosis.remedy:
        yield f"What to do: {diagnosis.remedy}."
    yield ""
    if evidence.exists:
        place = f"on node {evidence.node}" if evidence.node else "not scheduled"
        yield f"pod        {evidence.phase or 'unknown'}, {place}"
    if evidence.owner is not None:
        owner = f"{evidence.owner.owner}'s" if evidence.owner.owner else "no DynaKube's"
        yield f"namespace  label {evidence.owner.label or 'none'}, by selectors {owner}"
    if evidence.decision.injected is not None:
        why = f" ({evidence.decision.reason})" if evidence.decision.reason else ""
        yield f"webhook    {'injected' if evidence.decision.injected else f'not injected{why}'}"
    for annotation in evidence.decision.annotations:
        yield f"annotation {annotation}"
    if (init := evidence.init) is not None:
        reason, message = f" ({init.reason})" if init.reason else "", f": {init.message}" if init.message else ""
        yield f"init       {init.state}{reason}{message}"
        yield from (f"log        {line}" for line in init.log.splitlines())
    yield from (f"container  {problem}" for problem in evidence.container_problems)
    yield from _of_node(evidence)
    for event in evidence.events:
        yield f"event      {event.about}: {event.reason}: {event.message}"
    for problem in (*evidence.unread, *filter(None, [evidence.node_problem])):
        yield f"not read   {problem}"


def _of_node(evidence: Evidence) -> Iterator[str]:
    """The main parts of the node's report; JSON has all of it."""
    if evidence.on_node is None:
        return
    if (volume := evidence.on_node.evidence.volume) is not None:
        version = identifiers.agent_version(volume.version) or "none yet"
        yield f"volume     {volume.state}, DynaKube {volume.dynakube}, version {version}"
    for process in evidence.on_node.evidence.processes:
        library = {True: "library loaded", False: "library not loaded", None: "maps can't be read"}[process.mapped]
        yield f"process    {process.pid} {process.command}: {library}"
