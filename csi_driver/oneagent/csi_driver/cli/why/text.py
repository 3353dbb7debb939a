"""Text of `oneagent-csi why`: the diagnosis first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator

from oneagent.common import printable
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import Diagnosis, PodEvidence, PodProcess


def render(evidence: PodEvidence, diagnosis: Diagnosis) -> str:
    """Return the text."""
    return "".join(f"{printable.mask(line)}\n" for line in _lines(evidence, diagnosis))


def _lines(evidence: PodEvidence, diagnosis: Diagnosis) -> Iterator[str]:
    yield f"{diagnosis.sentence[0].upper()}{diagnosis.sentence[1:]}."
    if diagnosis.remedy:
        yield f"What to do: {diagnosis.remedy}."
    yield ""
    volume = evidence.volume
    if volume is not None:
        yield f"volume     {volume.id}, mode {volume.mode}, {volume.state}"
        yield f"DynaKube   {volume.dynakube or 'unknown'}{f' ({volume.condition})' if volume.condition else ''}"
        yield f"version    {agent_version(volume.version) or 'none yet'}"
        yield f"target     {volume.target}"
    for layer in (evidence.view.upper, *evidence.view.lower) if evidence.view is not None else ():
        if layer is not None:
            yield f"layer      {layer}"
    for process in evidence.processes:
        yield f"process    {process.pid} {process.command}: {_process_state(process)}"
    for problem in evidence.unreadable:
        yield f"not read   {problem}"


def _process_state(process: PodProcess) -> str:
    library = {True: "library loaded", False: "library not loaded", None: "maps can't be read"}[process.mapped]
    preload = {True: "LD_PRELOAD set", False: "LD_PRELOAD not set", None: "environment can't be read"}[process.preload]
    return f"{library}, {preload}{', linked statically' if process.static else ''}"
