"""The peers made of grpc-go, as processes: a driver and kubelet's client. Their sources are in tests/tools."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from oneagent.sidecars import csi_client
from tests.node.sidecars import programs


class Peer:
    """A program in Go that takes orders as JSON and answers each with a line."""

    def __init__(self, program: Path, socket: Path) -> None:
        self._arguments = [program, socket]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def order(self, **order: Any) -> bytes:
        assert self.process and self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order).encode())
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Its exit code after a signal."""
        assert self.process
        self.process.send_signal(number)
        # Closes the pipes, too.
        self.process.communicate(timeout=10)
        return self.process.returncode

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.returncode is None:
            self.end()


class GoDriver(Peer):
    """`behave` says how it answers from then on (the fields of `behaviour` in driver-peer)."""

    def __init__(self, program: Path, socket: Path) -> None:
        super().__init__(program, socket)
        self.socket = socket

    def start(self) -> None:
        # What SIGKILL leaves behind.
        self.socket.unlink(missing_ok=True)
        super().start()
        programs.until(lambda: csi_client.wait_for_socket(str(self.socket), 1))

    def behave(self, **behaviour: Any) -> None:
        assert self.order(**behaviour)


class GoKubelet(Peer):
    """`do` obeys one order of kubelet-peer and returns its outcome."""

    def do(self, what: str, **order: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.order(do=what, **({"millis": 5000} | order)))
        return answer

    def info(self, calls: int = 1, **order: Any) -> dict[str, Any]:
        return self.do("info", calls=calls, **order)
