"""The demonstration's voice: one line a step with its time, and indented what others say."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from oneagent.common import terminal

_started = time.monotonic()
_screen = terminal.of_stream()


def step(text: str) -> None:
    """One thing that happened."""
    _write(f"{_screen.paint(f'{time.monotonic() - _started:6.2f} s', 'dim')}  {text}")


def quote(lines: str | Iterable[str]) -> None:
    """What somebody else says: a process, the kernel, a file."""
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        _write(f"          {_screen.paint('│', 'dim')} {line}".rstrip())


def chapter(title: str) -> None:
    _write(f"\n{_screen.paint(title, 'bold')}")


def say(text: str) -> None:
    _write(text)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
