"""The processes of the demonstration: started with a log of their own, and ended whatever happens.

Each is in a process group of its own, so that Ctrl-C in a terminal reaches only the demonstration, which then ends
them in order; should it be killed itself, the kernel ends them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_END_SECONDS: Final = 15
# Not by a function between fork and exec: a process with gRPC's threads in it must not fork.
_TOGETHER: Final = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class ProgramFailedError(Exception):
    """A step of the demonstration did not work; the message says which and how."""


@dataclass(frozen=True)
class Program:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Programs:
    """All of them, in the order of their start."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Program] = []

    def __iter__(self) -> Iterator[Program]:
        return iter(self._all)

    def start(self, name: str, module: str, *flags: str) -> Program:
        return self.start_command(name, sys.executable, "-m", module, *flags)

    def start_command(self, name: str, *command: str) -> Program:
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*_TOGETHER, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        program = Program(name, process, path)
        self._all.append(program)
        return program

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
        """Wait for something; `Failed` if it does not come, or a process ends meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise ProgramFailedError(f"{what}: not within {seconds:g} s")
            time.sleep(0.01)

    def check(self) -> None:
        """`Failed` if one of them has ended."""
        for program in self._all:
            if program.process.poll() is not None:
                raise ProgramFailedError(f"{program.name} ended with {program.process.returncode}")

    def end(self) -> dict[str, int]:
        """End all, the last one first; their exit codes."""
        codes = {}
        for program in reversed(self._all):
            program.process.terminate()
            try:
                codes[program.name] = program.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                program.process.kill()
                codes[program.name] = program.process.wait()
        self._all.clear()
        return codes

    def tails(self, lines: int = 15) -> str:
        """The last lines of each log."""
        parts = []
        for path in sorted(self._logs.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- the end of {path.name}", *tail]))
        return "\n".join(parts)
