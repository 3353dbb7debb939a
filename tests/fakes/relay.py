"""A way to a TCP server that can be cut: what is connected breaks off; what comes while it is closed is sent away.

A connection can also be planned to break off by itself, after so many bytes of the server's. And it can fall silent:
it stays open, but nothing comes through, as behind a load balancer that has forgotten it.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_PIECE: Final = 64 * 1024


class Relay:
    """Listens on `port` of the loopback device while it is entered."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connected: set[socket.socket] = set()
        self._closed = False
        self._silenced: set[threading.Event] = set()
        self.is_silent = False
        """New connections are silent from the start."""
        self.gate = threading.Event()
        """New connections wait for it, at most a minute, before they are connected to the server."""
        self.gate.set()
        self.refused = 0
        """Connections that came while it was closed."""
        self.passed = 0
        """Bytes of the server's that were passed on."""
        self.planned: collections.deque[int] = collections.deque()
        """After how many bytes of the server's the next connections break off."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def open(self) -> None:
        self._closed = False

    def close(self) -> None:
        """From now on nobody gets through."""
        self._closed = True
        self.cut()

    def cut(self) -> None:
        """Everything that is connected breaks off."""
        with self._lock:
            for connection in self._connected:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Nothing comes through any more on what is connected, and nothing ends it."""
        with self._lock:
            for silenced in self._silenced:
                silenced.set()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                self.refused += 1
                visitor.close()
            else:
                threading.Thread(target=self._connect, args=(visitor,), daemon=True).start()

    def _connect(self, visitor: socket.socket) -> None:
        silenced = threading.Event()
        self.gate.wait(60)
        with visitor, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            with self._lock:
                self._connected |= {visitor, server}
                self._silenced.add(silenced)
                if self.is_silent:
                    silenced.set()
                left = [self.planned.popleft()] if self.planned else []

            def bounded(count: int) -> int:
                """How much of so many bytes may be passed on."""
                allowed = min([count, *left])
                left[:] = [most - allowed for most in left]
                self.passed += allowed
                return allowed

            back = threading.Thread(target=_pass_on, args=(server, visitor, silenced, bounded), daemon=True)
            back.start()
            if self._closed:
                self.cut()
            _pass_on(visitor, server, silenced)
            back.join()
            with self._lock:
                self._connected -= {visitor, server}
                self._silenced.discard(silenced)


def _pass_on(
    source: socket.socket,
    sink: socket.socket,
    silenced: threading.Event,
    bounded: Callable[[int], int] = lambda count: count,
) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            if silenced.is_set():
                continue
            allowed = bounded(len(piece))
            sink.sendall(piece[:allowed])
            if allowed < len(piece):
                source.shutdown(socket.SHUT_RDWR)
                break
    if silenced.is_set():
        return
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
