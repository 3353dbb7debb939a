"""Server for unary gRPC calls at a unix socket that only its owner can open.

- The socket has mode 0700 from the start: Linux takes a bound socket's mode from the unbound one's, so neither a
  process-wide umask nor a later chmod is needed.
- An old socket at the path is removed; any other file there is an error and stays.
- `ensure_socket` creates the socket again if its file was removed. Like `stop`, it leaves a successor's socket alone.
- `stop` waits for the calls in progress before it removes the file.

Each connection has a thread, which answers its calls one after the other (kubelet makes one at a time), and pings
between them. Connections may be idle without limit and are not counted: only root can open the socket.

    SocketInUseError     the file at the socket's path is not a socket
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from oneagent.common import logs
from oneagent.sidecars.grpc import protocol
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

Handler = Callable[[bytes], bytes]
"""Turns a request's bytes into the response's; `RpcError` sets the response's status"""

_MODE: Final = 0o700
_READ_BYTES: Final = 16 * 1024
_BACKLOG: Final = 16
_ACCEPT_RETRY_SECONDS: Final = 0.5
_LISTENER_CLOSED: Final = (errno.EBADF, errno.EINVAL)
_START: Final = [(":status", "200"), ("content-type", "application/grpc")]


class SocketInUseError(Exception):
    """The file at the socket's path is not a socket."""


class Server:
    """Serves `handlers` (by `/package.Service/Method`) at `path`, from `ensure_socket` until `stop`."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._listener: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()

    def ensure_socket(self) -> bool:
        """Create the socket if its file is missing; True if it was created. `SocketInUseError`, `OSError`."""
        found = self._stat_socket()
        if self._listener and found:
            # Our socket, or that of a newer process, which stays.
            return False
        self._close_listener()
        if found:
            if not stat.S_ISSOCK(found.st_mode):
                raise SocketInUseError(f"{self._path} is not a socket; move it away")
            self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), _MODE)
            listener.bind(os.fspath(self._path))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        # The file may be removed at once; the next call then creates it again.
        bound = self._stat_socket()
        self._listener, self._inode = listener, (bound.st_dev, bound.st_ino) if bound else None
        threading.Thread(target=self._accept, args=(listener,), name="grpc-accept", daemon=True).start()
        return True

    def stop(self, grace_seconds: float) -> None:
        """Accept no more, finish calls in progress (for at most `grace_seconds`), then remove the socket."""
        self._close_listener()
        with self._lock:
            open_connections = dict(self._connections)
        for sock in open_connections.values():
            # Requests that have arrived are still read and answered; after them the connection reads its end.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + grace_seconds
        for thread in open_connections:
            thread.join(max(deadline - time.monotonic(), 0))
        found = self._stat_socket()
        if found and (found.st_dev, found.st_ino) == self._inode:
            self._path.unlink(missing_ok=True)

    def _stat_socket(self) -> os.stat_result | None:
        try:
            return self._path.lstat()
        except FileNotFoundError:
            return None

    def _close_listener(self) -> None:
        if self._listener:
            # Closing alone would leave the accepting thread asleep.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in _LISTENER_CLOSED:
                    return
                # For example without a free file descriptor: a temporary fault must not end the server.
                log.warning("accept failed", extra=logs.fields(reason=error))
                time.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), name="grpc", daemon=True)
            # Started within the lock: `stop` can only join what has been started.
            with self._lock:
                self._connections[thread] = sock
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                _Connection(sock, self._handlers).run()
        except (OSError, h2.exceptions.H2Error) as error:
            log.info("connection failed", extra=logs.fields(reason=error))
        finally:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)


@dataclasses.dataclass
class _Request:
    """The received part of a call."""

    method: str
    body: bytearray = dataclasses.field(default_factory=bytearray)
    whole: bool = False


class _Connection:
    """One client's connection, until either side closes it."""

    def __init__(self, sock: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._sock = sock
        self._handlers = handlers
        config = h2.config.H2Configuration(client_side=False)
        self._h2 = h2.connection.H2Connection(config)
        self._arriving: dict[int, _Request] = {}
        self._waiting: dict[int, _Request] = {}
        self._open = True

    def run(self) -> None:
        self._h2.initiate_connection()
        self._send()
        while self._open or self._waiting:
            if self._open:
                # Also between responses, so that no cancelled call is run.
                self._read(wait=not self._waiting)
            if self._waiting:
                stream = next(iter(self._waiting))
                self._answer(stream, self._waiting[stream])
                self._waiting.pop(stream, None)
        self._h2.close_connection()
        # The client may have gone first.
        with contextlib.suppress(OSError):
            self._send()

    def _read(self, *, wait: bool) -> None:
        try:
            data = self._sock.recv(_READ_BYTES, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._open = bool(data)
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # Sends the client a GOAWAY with the reason.
            self._send()
            raise
        if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
            # A client that sent a GOAWAY expects no responses, and h2 would send none.
            self._open = False
            self._waiting.clear()
            return
        for event in events:
            self._take(event)
        self._send()

    def _send(self) -> None:
        if data := self._h2.data_to_send():
            self._sock.sendall(data)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived) and event.stream_id:
            headers = dict(event.headers or ())
            self._arriving[event.stream_id] = _Request(headers.get(b":path", b"").decode(errors="replace"))
        elif isinstance(event, h2.events.DataReceived) and event.stream_id:
            # A stream's window is never enlarged (which limits a message), the connection's is.
            if event.flow_controlled_length:
                self._h2.increment_flow_control_window(event.flow_controlled_length)
            self._collect(event.stream_id, event.data or b"")
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id:
            self._has_arrived(event.stream_id, whole=True)
        elif isinstance(event, h2.events.StreamReset) and event.stream_id:
            self._arriving.pop(event.stream_id, None)
            self._waiting.pop(event.stream_id, None)

    def _collect(self, stream: int, data: bytes) -> None:
        request = self._arriving.get(stream)
        if request is not None:
            request.body += data
            if protocol.too_long(request.body):
                self._has_arrived(stream, whole=False)

    def _has_arrived(self, stream: int, *, whole: bool) -> None:
        request = self._arriving.pop(stream, None) or self._waiting.get(stream)
        if request is not None:
            request.whole = whole
            self._waiting[stream] = request

    def _answer(self, stream: int, request: _Request) -> None:
        try:
            response = self._run_handler(request)
        except RpcError as error:
            self._refuse(stream, request, error)
        else:
            self._h2.send_headers(stream, _START)
            if not self._send_message(stream, protocol.frame(response)):
                return
            self._h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        # Before the next handler runs, which may take its time.
        self._send()

    def _send_message(self, stream: int, message: bytes) -> bool:
        """Send as fast as flow control allows; False if the client cancelled."""
        while message:
            window = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if window > 0:
                self._h2.send_data(stream, message[:window])
                message = message[window:]
                continue
            self._send()
            self._read(wait=True)
            if not self._open or stream not in self._waiting:
                return False
        return True

    def _refuse(self, stream: int, request: _Request, error: RpcError) -> None:
        details = logs.fields(method=request.method, status=error.status.name, reason=error.detail)
        log.warning("call failed", extra=details)
        end = [("grpc-status", str(int(error.status))), ("grpc-message", protocol.quote(error.detail))]
        self._h2.send_headers(stream, _START + end, end_stream=True)
        if not request.whole:
            # The rest of the message need not be sent.
            self._h2.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)

    def _run_handler(self, request: _Request) -> bytes:
        handler = self._handlers.get(request.method)
        if handler is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"unknown method {request.method}")
        try:
            return handler(protocol.unframe(bytes(request.body)))
        except RpcError:
            raise
        except Exception as error:
            log.exception("handler failed", extra=logs.fields(method=request.method))
            raise RpcError(StatusCode.INTERNAL, f"{request.method} failed: {type(error).__name__}") from error
