"""Problems of the installation and their remedies.

    installation           all of it, a half, or nothing; Secrets; deletions that do not end
    webhook_configuration  CRD, webhook configurations, and their certificates
    workloads              operator, webhook and driver: ready, of one release, images pulled, admitted
    nodes                  driver on every node, registered, and the nodes' own problems
    dynakubes              conditions, tokens, labels of namespaces, leftovers

Each check is a function of the snapshot. A check whose fields are unreadable is skipped, which is a finding.
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
    """It works, or that is unknown; an administrator should check."""
    NOTE = "note"
    """For information; nothing to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    check: str
    """A constant name, for programs."""
    sentence: str
    remedy: str = ""
    commands: tuple[str, ...] = ()
    """Commands of the remedy, in their order."""


class Mark(enum.StrEnum):
    """Result of a check."""

    PASSED = "passed"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "not checked"


@dataclass(frozen=True, slots=True)
class CheckResult:
    check: str
    title: str
    """Statement that is true if the check has passed."""
    mark: Mark


@dataclass(frozen=True, slots=True)
class DoctorReport:
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    """Checks that were run."""
    nodes: int
    results: tuple[CheckResult, ...] = ()
    """Results of all checks, in their order."""

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
