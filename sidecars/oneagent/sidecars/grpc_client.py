"""One unary gRPC call over a connection of its own to a unix socket.

A new connection each time is what a health check wants: it proves that the other side still accepts.
A missing or refusing socket is tried again until the deadline, as Go's clients do, so that a driver that is
just restarting is not taken for a dead one. `call` never takes longer than its timeout.
Raises `grpc_wire.RpcError` and nothing else.
"""

from __future__ import annotations

import socket
import time
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from oneagent.sidecars import grpc_wire
from oneagent.sidecars.grpc_wire import RpcError, Status

_RETRY_SECONDS: Final = 0.05
_READ_BYTES: Final = 16 * 1024


def call(path: str, method: str, request: bytes, timeout_seconds: float) -> bytes:
    """Send `request` to `method` (`/package.Service/Method`) and return the response's bytes."""
    deadline = time.monotonic() + timeout_seconds
    try:
        with connect(path, deadline) as sock:
            return _exchange(sock, method, request, deadline)
    except TimeoutError as error:
        raise RpcError(
            Status.DEADLINE_EXCEEDED, f"no answer to {method} at {path} in {timeout_seconds:g} s"
        ) from error
    except OSError as error:
        raise RpcError(Status.UNAVAILABLE, f"{path}: {error.strerror or error}") from error
    except h2.exceptions.H2Error as error:
        raise RpcError(Status.UNAVAILABLE, f"{path} does not speak HTTP/2: {error}") from error


def connect(path: str, deadline: float) -> socket.socket:
    """A connection to the socket at `path`; `OSError` with the last reason once the deadline is over."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), _RETRY_SECONDS))
            sock.connect(path)
        # BlockingIOError: the socket is there, but its queue of connections is full.
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            sock.close()
            if time.monotonic() + _RETRY_SECONDS >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        except BaseException:
            sock.close()
            raise
        else:
            return sock


def _exchange(sock: socket.socket, method: str, request: bytes, deadline: float) -> bytes:
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    timeout_millis = max(int((deadline - time.monotonic()) * 1000), 1)
    stream = connection.get_next_available_stream_id()
    connection.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-python-h2"),
            ("grpc-timeout", f"{timeout_millis}m"),
        ],
    )
    connection.send_data(stream, grpc_wire.frame(request), end_stream=True)
    response = _Response()
    while not response.ended:
        sock.sendall(connection.data_to_send())
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)
        data = sock.recv(_READ_BYTES)
        if not data:
            raise RpcError(Status.UNAVAILABLE, f"the connection was closed in the middle of {method}")
        for event in connection.receive_data(data):
            response.take(event)
    return response.message()


class _Response:
    """What has come of an answer."""

    def __init__(self) -> None:
        self.ended = False
        self._body = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers.update(event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            # Windows are never enlarged: the initial 64 KiB are also the limit of a message.
            self._body += event.data or b""
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True
        elif isinstance(event, h2.events.StreamReset):
            raise RpcError(Status.UNAVAILABLE, f"the call was reset with HTTP/2 error {event.error_code}")
        elif isinstance(event, h2.events.ConnectionTerminated) and event.error_code:
            raise RpcError(Status.UNAVAILABLE, f"the server went away with HTTP/2 error {event.error_code}")

    def message(self) -> bytes:
        """The response's bytes, if it has come whole and its status is OK."""
        http_status = self._header(b":status")
        if http_status != "200":
            raise RpcError(Status.UNAVAILABLE, f"HTTP status {http_status or 'none'} is not gRPC's")
        status = Status.parse(self._header(b"grpc-status"))
        if status is not Status.OK:
            raise RpcError(status, grpc_wire.unquote(self._header(b"grpc-message")))
        return grpc_wire.unframe(bytes(self._body))

    def _header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode(errors="replace")
