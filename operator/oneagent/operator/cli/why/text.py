"""The answer to `why` as text for people: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from oneagent.operator.cli import terminal
from oneagent.operator.cli.why import Evidence, Verdict


def render(found: Evidence, verdict: Verdict) -> str:
    """Lines of text."""
    return terminal.plain("".join(f"{line}\n" for line in _lines(found, verdict)))


def _lines(found: Evidence, verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.sentence[0].upper()}{verdict.sentence[1:]}."
    if verdict.remedy:
        yield f"What to do: {verdict.remedy}."
    yield ""
    if found.exists:
        yield f"pod        {found.phase or 'not known'}, {f'on node {found.node}' if found.node else 'on no node'}"
    if found.owner is not None:
        owner = f"{found.owner.owner}'s" if found.owner.owner else "nobody's"
        yield f"namespace  label says {found.owner.label or 'nothing'}, by the selectors {owner}"
    if found.decision.injected is not None:
        why = f" ({found.decision.reason})" if found.decision.reason else ""
        yield f"webhook    {'injected' if found.decision.injected else f'not injected{why}'}"
    for asked in found.decision.asked:
        yield f"asked for  {asked}"
    if (init := found.init) is not None:
        reason, message = f" ({init.reason})" if init.reason else "", f": {init.message}" if init.message else ""
        yield f"init       {init.state}{reason}{message}"
        yield from (f"log        {line}" for line in init.log.splitlines())
    yield from (f"container  {trouble}" for trouble in found.troubles)
    yield from _of_node(found)
    for event in found.events:
        yield f"event      {event.about}: {event.reason}: {event.message}"
    for problem in (*found.unread, *filter(None, [found.node_problem])):
        yield f"not read   {problem}"


def _of_node(found: Evidence) -> Iterator[str]:
    """What is most asked for of the node's answer; all of it is in JSON."""
    answer = found.on_node or {}
    if volume := answer.get("volume"):
        version = volume.get("version") or "none yet"
        yield f"volume     {volume.get('state')}, DynaKube {volume.get('dynakube')}, version {version}"
    for process in answer.get("processes") or ():
        library = {True: "library loaded", False: "library not loaded"}.get(process.get("mapped"), "maps can't be read")
        yield f"process    {process.get('pid')} {process.get('command')}: {library}"
