"""The sidecars as processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest

Command = Literal["csi-node-driver-registrar", "livenessprobe"]

_MODULES: Final = {"csi-node-driver-registrar": "registrar", "livenessprobe": "livenessprobe"}


def words(command: Command) -> list[str]:
    """How to start the sidecar."""
    return [sys.executable, "-m", f"oneagent.sidecars.{_MODULES[command]}"]


class Program:
    """One running process, whose log goes to a file."""

    def __init__(self, command_line: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command_line, stdout=stream, stderr=stream)

    def log(self) -> str:
        return self._log.read_text()

    def terminate(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self, within_seconds: float = 10) -> int:
        return self.process.wait(within_seconds)

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


@contextlib.contextmanager
def running(command_line: list[str], log: Path) -> Iterator[Program]:
    """The program, ended on leaving."""
    program = Program(command_line, log)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait(10)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition; fails the test if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not come true within {seconds} s")
        time.sleep(0.02)
