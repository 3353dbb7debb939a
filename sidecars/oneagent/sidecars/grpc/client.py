"""Client for one unary gRPC call over its own connection to a unix socket.

A new connection for each call suits a health check: it proves that the server still accepts. A missing or refusing
socket is retried until the deadline, as Go's clients do, so that a restarting driver does not count as dead. `call`
never takes longer than its timeout, and raises only `RpcError`.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from oneagent.sidecars.grpc import protocol
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

_RETRY_SECONDS: Final = 0.05
_READ_BYTES: Final = 16 * 1024
_TIMEOUT_LIMIT_MILLIS: Final = 99_999_999  # `grpc-timeout` has eight digits at most.

_FRAME_HEADER_BYTES: Final = 9
_FRAME_LIMIT_BYTES: Final = 2**14  # The initial SETTINGS_MAX_FRAME_SIZE.
_GOAWAY: Final = 7

_RESETS: Final[dict[int, StatusCode]] = {
    h2.errors.ErrorCodes.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    h2.errors.ErrorCodes.CANCEL: StatusCode.CANCELLED,
    h2.errors.ErrorCodes.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    h2.errors.ErrorCodes.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}
"""Status of a reset stream, as in PROTOCOL-HTTP2; INTERNAL for all others"""


def call(path: str, method: str, request: bytes, timeout_seconds: float) -> bytes:
    """Send `request` (16 KiB at most) to `method` (`/package.Service/Method`); returns the response's bytes."""
    deadline = time.monotonic() + timeout_seconds
    try:
        with connect(path, deadline) as sock:
            return _Call(sock, method, deadline).run(request)
    except TimeoutError as error:
        raise RpcError(
            StatusCode.DEADLINE_EXCEEDED, f"no answer to {method} at {path} in {timeout_seconds:g} s"
        ) from error
    except OSError as error:
        raise RpcError(StatusCode.UNAVAILABLE, f"{path}: {error.strerror or error}") from error
    except h2.exceptions.H2Error as error:
        raise RpcError(StatusCode.UNAVAILABLE, f"{path} breaks the rules of HTTP/2: {error}") from error


def connect(path: str, deadline: float) -> socket.socket:
    """Connect to the socket at `path`; `OSError` with the last reason after the deadline."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), _RETRY_SECONDS))
            sock.connect(path)
        # BlockingIOError: the socket exists, but its queue of connections is full.
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


class _Call:
    """The connection's only stream, and the received part of the response."""

    def __init__(self, sock: socket.socket, method: str, deadline: float) -> None:
        self._sock = sock
        self._method = method
        self._deadline = deadline
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self._h2.initiate_connection()
        self._stream = self._h2.get_next_available_stream_id()
        self._received = bytearray()
        self._ended = False
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def run(self, request: bytes) -> bytes:
        self._h2.send_headers(self._stream, self._request_headers())
        self._h2.send_data(self._stream, protocol.frame(request), end_stream=True)
        while not self._ended:
            self._send()
            data = self._receive()
            if not data:
                raise RpcError(StatusCode.UNAVAILABLE, f"the connection was closed in the middle of {self._method}")
            self._received += data
            for frame in self._frames():
                self._take(frame)
        return self._message()

    def _request_headers(self) -> list[tuple[str, str]]:
        # Rounded up: our own clock is the one that ends the call, always with the same status.
        millis = math.ceil((self._deadline - time.monotonic()) * 1000)
        return [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self._method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-python-h2"),
            ("grpc-timeout", f"{min(max(millis, 1), _TIMEOUT_LIMIT_MILLIS)}m"),
        ]

    def _send(self) -> None:
        self._sock.settimeout(self._remaining())
        self._sock.sendall(self._h2.data_to_send())

    def _receive(self) -> bytes:
        self._sock.settimeout(self._remaining())
        return self._sock.recv(_READ_BYTES)

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def _frames(self) -> Iterator[bytes]:
        """Yield complete frames of the received bytes."""
        while not self._ended and len(self._received) >= _FRAME_HEADER_BYTES:
            length = int.from_bytes(self._received[:3])
            if length > _FRAME_LIMIT_BYTES:
                raise RpcError(StatusCode.UNAVAILABLE, "what answers does not speak HTTP/2")
            end = _FRAME_HEADER_BYTES + length
            if len(self._received) < end:
                return
            frame = bytes(self._received[:end])
            del self._received[:end]
            yield frame

    def _take(self, frame: bytes) -> None:
        # A server that stops gracefully sends a GOAWAY first and still answers open streams. h2 accepts no frame
        # after a GOAWAY, so it must not see one.
        if frame[3] == _GOAWAY:
            self._heed_goaway(frame[_FRAME_HEADER_BYTES:])
            return
        for event in self._h2.receive_data(frame):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._headers.update(event.headers or ())
            elif isinstance(event, h2.events.DataReceived):
                self._body += event.data or b""
                if protocol.too_long(self._body):
                    limit = protocol.MESSAGE_LIMIT_BYTES
                    raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"the answer has more than {limit} bytes")
            elif isinstance(event, h2.events.StreamEnded):
                # Later frames, even a reset, change nothing.
                self._ended = True
            elif isinstance(event, h2.events.StreamReset):
                # The server has our deadline too, and its reset may arrive before our own timeout.
                self._remaining()
                status = _RESETS.get(event.error_code or 0, StatusCode.INTERNAL)
                raise RpcError(status, f"the call was reset with HTTP/2 error {event.error_code}")

    def _heed_goaway(self, payload: bytes) -> None:
        last_stream, code = struct.unpack_from(">II", payload.ljust(8, b"\0"))
        if code or last_stream & 0x7FFFFFFF < self._stream:
            raise RpcError(StatusCode.UNAVAILABLE, f"the server goes away, with HTTP/2 error {code}")

    def _message(self) -> bytes:
        """Return the response's bytes; `RpcError` if it is incomplete or its status is not OK."""
        http_status = self._header(b":status")
        if http_status != "200":
            raise RpcError(StatusCode.UNAVAILABLE, f"HTTP status {http_status or 'none'} is not gRPC's")
        status = StatusCode.parse(self._header(b"grpc-status"))
        if status is not StatusCode.OK:
            raise RpcError(status, protocol.unquote(self._header(b"grpc-message")))
        return protocol.unframe(self._body)

    def _header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode(errors="replace")
