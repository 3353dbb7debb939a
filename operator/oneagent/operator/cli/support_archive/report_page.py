"""`report.html` of a support archive: what `status` and `doctor` say, on one page that loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Final

from oneagent.common import agents, printable
from oneagent.operator.cli.doctor import DoctorReport, Finding, Mark, Severity
from oneagent.operator.cli.status import ClusterStatus

_MARKS: Final = {Mark.PASSED: "✓", Mark.WARNING: "!", Mark.ERROR: "✗", Mark.SKIPPED: "-"}
_CLASSES: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
li { margin: .4rem 0; }
.error { color: #c62828; } .warning { color: #b26a00; } .note { opacity: .7; } .remedy { opacity: .8; }
"""


def render(status: ClusterStatus, report: DoctorReport, taken_at: str) -> str:
    """Return the page; `taken_at` is when the cluster was read."""
    return "\n".join(_lines(status, report, taken_at)) + "\n"


def _lines(status: ClusterStatus, report: DoctorReport, taken_at: str) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>oneagent-csi</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body>"
    yield f"<h1>oneagent-csi in {_text(status.namespace)}</h1>"
    numbers = status.summary
    yield (
        f"<p>{_text(taken_at)}: {status.installation}; {numbers.nodes_ready} of {numbers.nodes} nodes ready; "
        f"{numbers.namespaces_monitored} of {numbers.namespaces} namespaces monitored; {numbers.failures} problems.</p>"
    )
    yield "<h2>Needs attention</h2>"
    yield from _findings(finding for finding in report.findings if finding.severity != Severity.NOTE)
    yield "<h2>Checks</h2>"
    rows = ((_MARKS[result.mark], result.check, result.mark, result.title) for result in report.results)
    yield from _table(("", "check", "result", "looks for"), rows)
    yield "<h2>Components</h2>"
    components = (
        (row.component, f"{row.ready}/{row.desired}" if row.kind else "not installed", row.version)
        for row in status.components
    )
    yield from _table(("component", "ready", "release"), components)
    yield "<h2>DynaKubes</h2>"
    kubes = (
        (agents.short_name(row.name), row.mode, row.version, "yes" if row.ready else "no", row.message)
        for row in status.dynakubes
    )
    yield from _table(("DynaKube", "mode", "version", "ready", "message"), kubes)
    yield "<h2>Nodes</h2>"
    nodes = ((row.node, row.driver, ", ".join(row.versions), "; ".join(row.problems)) for row in status.nodes)
    yield from _table(("node", "driver", "versions", "problems"), nodes)
    yield "<h2>Notes</h2>"
    yield from _findings(finding for finding in report.findings if finding.severity == Severity.NOTE)
    yield "</body></html>"


def _findings(findings: Iterable[Finding]) -> Iterator[str]:
    found = list(findings)
    if not found:
        yield "<p>Nothing.</p>"
        return
    yield "<ul>"
    for finding in found:
        remedy = f'<br><span class="remedy">→ {_text(finding.remedy)}</span>' if finding.remedy else ""
        commands = "".join(f"<br><code>{_text(command)}</code>" for command in finding.commands)
        yield f'<li class="{_CLASSES[finding.severity]}">{_text(finding.sentence)}{remedy}{commands}</li>'
    yield "</ul>"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"<table><tr>{''.join(f'<th>{title}</th>' for title in header)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>"
    yield "</table>"


def _text(text: str) -> str:
    return html.escape(printable.mask(text))
