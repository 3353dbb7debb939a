"""What a concern says of a DynaKube after it has looked: a condition, when to look again, and fields of the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    status: ConditionStatus
    reason: str
    """A word in CamelCase, for programs: a constant of the concern's module."""
    message: str
    """A sentence for people; of what is wrong, with the field, the value and the remedy."""
    again_seconds: float | None = None
    """When to look again, if nothing happens before; None: only when something happens."""
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of the status; what several concerns say of one section is put together."""


def fine(reason: str, message: str, **fields: Mapping[str, Any]) -> ReconcileResult:
    return ReconcileResult("True", reason, message, fields=fields)


def wrong(
    reason: str, message: str, again_seconds: float | None = None, **fields: Mapping[str, Any]
) -> ReconcileResult:
    return ReconcileResult("False", reason, message, again_seconds, fields)


def waiting(
    reason: str, message: str, again_seconds: float | None = None, **fields: Mapping[str, Any]
) -> ReconcileResult:
    return ReconcileResult("Unknown", reason, message, again_seconds, fields)
