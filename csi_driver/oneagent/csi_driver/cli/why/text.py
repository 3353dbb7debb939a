"""The answer to `why` as text for people: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from oneagent.csi_driver.cli.why import Evidence, PodProcess, Verdict


def render(found: Evidence, verdict: Verdict) -> str:
    """Lines of text."""
    return "".join(f"{line}\n" for line in _lines(found, verdict))


def _lines(found: Evidence, verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.sentence[0].upper()}{verdict.sentence[1:]}."
    if verdict.remedy:
        yield f"What to do: {verdict.remedy}."
    yield ""
    volume = found.volume
    if volume is not None:
        yield f"volume     {volume.id}, mode {volume.mode}, {volume.state}"
        yield f"DynaKube   {volume.dynakube or 'not known'}{f' ({volume.condition})' if volume.condition else ''}"
        yield f"version    {volume.version or 'none yet'}"
        yield f"target     {volume.target}"
    for layer in (found.view.upper, *found.view.lower) if found.view is not None else ():
        if layer is not None:
            yield f"layer      {layer}"
    for process in found.processes:
        yield f"process    {process.pid} {process.command}: {_said(process)}"
    for problem in found.unreadable:
        yield f"not read   {problem}"


def _said(process: PodProcess) -> str:
    library = {True: "library loaded", False: "library not loaded", None: "maps can't be read"}[process.mapped]
    preload = {True: "LD_PRELOAD set", False: "LD_PRELOAD not set", None: "environment can't be read"}[process.preload]
    return f"{library}, {preload}{', linked statically' if process.static else ''}"
