"""One program of the cluster: a child process with a log file, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_LOG_LINES: Final = 30


class NotReadyError(Exception):
    """A program ended, or was not ready in time; the text holds the last lines of its log."""


class Program:
    """`ready` says whether the started program can be used; it may raise OSError for no."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        self._command = [str(word) for word in command]
        self._ready = ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start without waiting until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def wait_ready(self, within_seconds: float = 60) -> None:
        deadline = time.monotonic() + within_seconds
        while not self._answers():
            if not self.running:
                raise NotReadyError(f"{self.name} ended:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"{self.name} is not ready after {within_seconds:.0f} s:\n{self.last_lines()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: it can tidy nothing up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for its end; SIGKILL if that takes more than 20 s."""
        self._end(signal.SIGTERM)

    def last_lines(self, number: int = _LOG_LINES) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-number:])

    def _answers(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
