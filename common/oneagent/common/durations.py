"""Durations as Go writes them (`1h30m`, `500ms`): the form of flags, annotations and volume attributes."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse(text: str) -> float:
    """Return the seconds of a Go duration, never negative; `ValueError` shows the expected form."""
    if text == "0":
        return 0.0
    rest, seconds = text, 0.0
    while match := _PART.match(rest):
        unit = match[2].replace("\u03bc", "\u00b5")
        seconds += float(match[1]) * _SECONDS[unit]
        rest = rest[match.end() :]
    if rest or not text:
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m or 1h30m")
    return seconds


def render(seconds: float) -> str:
    """Return a duration as it may be typed, in the largest unit without a fraction: `720h`, `90s`, `500ms`."""
    for unit in ("h", "m", "s", "ms"):
        number = seconds / _SECONDS[unit]
        if seconds and round(number, 9).is_integer():
            return f"{round(number)}{unit}"
    return f"{seconds:g}s"
