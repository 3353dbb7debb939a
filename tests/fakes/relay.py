"""A way to a TCP server that can be cut: what is connected breaks off; what comes while it is closed is sent away."""

from __future__ import annotations

import contextlib
import socket
import threading
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
        self.refused = 0
        """Connections that came while it was closed."""

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
        with visitor, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            with self._lock:
                self._connected |= {visitor, server}
            back = threading.Thread(target=_pass_on, args=(server, visitor), daemon=True)
            back.start()
            if self._closed:
                self.cut()
            _pass_on(visitor, server)
            back.join()
            with self._lock:
                self._connected -= {visitor, server}


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
