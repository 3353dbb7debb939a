"""A TCP server that answers each request with bytes of its own choice, as no honest HTTP server would."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trustme

_MAX_REQUEST = 1 << 20

Script = Callable[[socket.socket, bytes], None]
"""Gets a connection and the request, as far as it has come with its headers' end."""


class RawServer:
    """Runs `script` in a thread for each connection. Closing it ends all of them."""

    def __init__(self, script: Script, tls: trustme.CA | None = None, *, silent: bool = False) -> None:
        """`silent`: run the script without a look at the request."""
        self._script, self._silent = script, silent
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.issue_cert("127.0.0.1", "localhost").configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.sent = 0
        """Bytes that `flood` has sent."""

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return sum(connection.fileno() >= 0 for connection in self._connections)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def flood(self, connection: socket.socket, piece: bytes, size: int) -> None:
        """Send `piece` again and again, `size` bytes in all, as fast as the client reads."""
        left = size
        while left > 0:
            sent = connection.send(piece[: min(left, len(piece))])
            left -= sent
            self.sent += sent

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(connection):
            if self._tls is not None and not self._silent:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with contextlib.closing(connection):
                request = b"" if self._silent else _read_request(connection)
                self.requests.append(request)
                self._script(connection, request)


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request and len(request) < _MAX_REQUEST:
        if not (data := connection.recv(65536)):
            break
        request += data
    return request


def drip(connection: socket.socket, first: bytes, piece: bytes = b"x", seconds: float = 0.05) -> None:
    """Send `first`, then `piece` again and again, until the client has had enough."""
    connection.sendall(first)
    while True:
        time.sleep(seconds)
        connection.sendall(piece)
