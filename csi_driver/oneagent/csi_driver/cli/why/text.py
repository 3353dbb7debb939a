"""Text of `oneagent-csi why`: the diagnosis first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.common import agents
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import Diagnosis, PodEvidence, PodProcess
from oneagent.common.terminal import Screen
from oneagent.csi_driver.cli.why import AS_INTENDED, UNKNOWN

_LABEL: Final = 11


def lines(evidence: PodEvidence, diagnosis: Diagnosis, screen: Screen) -> Iterator[str]:
    """Yield the diagnosis and its remedy as sentences, then the evidence."""
    style = "green" if diagnosis.reason in AS_INTENDED else "yellow" if diagnosis.reason in UNKNOWN else "red"
    for line in screen.wrap(f"{diagnosis.sentence[0].upper()}{diagnosis.sentence[1:]}."):
        yield screen.paint(line, style)
    if diagnosis.remedy:
        yield from screen.remedy(diagnosis.remedy, "What to do: ", " " * _LABEL, end=".")
    yield ""
    for label, text in _evidence(evidence):
        yield from screen.wrap(text, f"{label:<{_LABEL}}", " " * _LABEL)


def _evidence(evidence: PodEvidence) -> Iterator[tuple[str, str]]:
    volume = evidence.volume
    if volume is not None:
        yield "volume", f"{volume.id}, mode {volume.mode}, {volume.state}"
        condition = f" ({volume.condition})" if volume.condition else ""
        yield "owner", f"{agents.describe_object(volume.dynakube) if volume.dynakube else 'unknown'}{condition}"
        yield "version", agent_version(volume.version) or "none yet"
        yield "target", volume.target
    for layer in (evidence.view.upper, *evidence.view.lower) if evidence.view is not None else ():
        if layer is not None:
            yield "layer", layer
    for process in evidence.processes:
        yield "process", f"{process.pid} {process.command}: {_process_state(process)}"
    for problem in evidence.unreadable:
        yield "not read", problem


def _process_state(process: PodProcess) -> str:
    library = {True: "library loaded", False: "library not loaded", None: "maps can't be read"}[process.mapped]
    preload = {True: "LD_PRELOAD set", False: "LD_PRELOAD not set", None: "environment can't be read"}[process.preload]
    return f"{library}, {preload}{', linked statically' if process.static else ''}"
