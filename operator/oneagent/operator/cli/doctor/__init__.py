"""What is wrong with the installation, and what to do: the shapes of it, and the order of the checks.

    definitions    the CRD, webhook configurations, and the certificates behind them
    workloads      operator, webhook and driver: ready, of one release, images pulled, let into their namespace
    nodes          a driver on every node, registered, and what each node says of itself
    dynakubes      conditions, tokens, labels of namespaces, and what was left behind

Each check is a function of the whole picture. One whose fields could not be read is left out, and that is a finding.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any, Final

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


class Severity(enum.StrEnum):
    ERROR = "error"
    """Something does not work."""
    WARNING = "warning"
    """It works, or that can't be told; somebody should look."""
    NOTE = "note"
    """Good to know; nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    check: str
    """A constant name, for programs."""
    sentence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    """What was looked at."""
    nodes: int

    @property
    def healthy(self) -> bool:
        return all(finding.severity == Severity.NOTE for finding in self.findings)


def error(check: str, sentence: str, remedy: str) -> Finding:
    return Finding(Severity.ERROR, check, sentence, remedy)


def warning(check: str, sentence: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, check, sentence, remedy)


def note(check: str, sentence: str) -> Finding:
    return Finding(Severity.NOTE, check, sentence)


def to_json(report: DoctorReport) -> dict[str, Any]:
    """Return the JSON form."""
    return {"format": JSON_FORMAT, "healthy": report.healthy} | dataclasses.asdict(report)
