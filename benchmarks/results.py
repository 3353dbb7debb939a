"""Measured values: what they are held to, how they are shown and kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Result:
    """One row. Without a target `ok` is None: the value is there to be looked at."""

    name: str
    value: float
    unit: str
    target: str = ""
    ok: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float) -> Result:
    """A value that must not be above its target."""
    return Result(name, _rounded(value), unit, f"≤ {limit:g}", value <= limit)


def shown(name: str, value: float, unit: str) -> Result:
    """A value without a target."""
    return Result(name, _rounded(value), unit)


def quantile(samples: Iterable[float], percent: int) -> float:
    """The smallest sample that `percent` of all samples are not above."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def percentiles(name: str, samples: Sequence[float]) -> list[Result]:
    """p50, p95 and p99 of seconds, in microseconds."""
    return [shown(f"{name}_p{percent}_us", quantile(samples, percent) * 1e6, "µs") for percent in (50, 95, 99)]


def write(path: Path, results: Iterable[Result]) -> None:
    """Keep the results for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(result) for result in results]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def show(results: Iterable[Result]) -> None:
    """Print the results for people."""
    table = Table("measured", "value", "unit", "target", "met")
    table.columns[1].justify = "right"
    for result in results:
        met = "" if result.ok is None else "[green]yes" if result.ok else "[red]no"
        table.add_row(result.name, f"{result.value:g}", result.unit, result.target, met)
    Console().print(table)


def _rounded(value: float) -> float:
    return round(value, 0 if value >= 1000 else 2)
