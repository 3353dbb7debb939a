"""A small HTTP/1.1 server for probes and metrics: GET and HEAD of a few fixed paths.

Not `http.server`: that one brings `http.client`, `email` and `ssl`, 10 MiB of memory on every node for two short
answers, and keeps each connection for as long as its client likes. Here each request has its own connection and
thread, within `ConnectionLimits`; a page that takes longer (a health check that waits) is the page's own affair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from oneagent.common import addresses, logs
from oneagent.common.addresses import AddressError
from oneagent.common.http import connections
from oneagent.common.http.connections import ConnectionLimits

log = logging.getLogger(__name__)

_HEAD_LIMIT_BYTES: Final = 8 * 1024
_ACCEPT_RETRY_SECONDS: Final = 0.5
_EVICTION_SECONDS: Final = 0.05
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a page says."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Answer]


def serve(address: str, pages: Mapping[str, Page], limits: ConnectionLimits = connections.DEFAULT) -> str:
    """Answer `pages` (by path) at `address` while the process lives; returns `host:port` as bound."""
    host, port = addresses.split(address)
    try:
        listener = connections.listen(host, port, limits.backlog)
    except OSError as error:
        raise AddressError(f"cannot listen at {address}: {error.strerror or error}") from error
    server = _PageServer(listener, pages, limits)
    threading.Thread(target=server.accept_forever, name="http", daemon=True).start()
    bound_host, bound_port = listener.getsockname()[:2]
    return f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"


class _PageServer:
    """One port. Its connections are accepted by one thread, and answered by one each."""

    def __init__(self, listener: socket.socket, pages: Mapping[str, Page], limits: ConnectionLimits) -> None:
        self._listener, self._pages, self._limits = listener, pages, limits
        self._places = threading.BoundedSemaphore(limits.connections)
        self._lock = threading.Lock()
        self._evictable: dict[socket.socket, str] = {}
        """Connections whose page is not running, by age, and their peers."""

    def accept_forever(self) -> None:
        arrivals = select.poll()
        arrivals.register(self._listener, select.POLLIN)
        while True:
            # No connection is evicted before another one has arrived.
            arrivals.poll()
            self._acquire_place()
            try:
                client, address = self._listener.accept()
            except OSError as error:
                log.warning("no connection could be accepted", extra=logs.fields(reason=error))
                self._places.release()
                time.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            peer = str(address[0])
            self._set_evictable(client, peer)
            try:
                threading.Thread(target=self._handle, args=(client, peer), name="http-request", daemon=True).start()
            except RuntimeError as error:  # A limit of threads.
                log.warning("no thread for a connection", extra=logs.fields(reason=error))
                self._keep(client)
                client.close()
                self._places.release()
                time.sleep(_ACCEPT_RETRY_SECONDS)

    def _acquire_place(self) -> None:
        wait = 0.0
        while not self._places.acquire(timeout=wait):
            self._evict()
            wait = _EVICTION_SECONDS  # until the thread of the evicted connection has ended

    def _evict(self) -> None:
        with self._lock:
            client = connections.choose_evicted(self._evictable)
            if client is not None:
                del self._evictable[client]
                # Its thread wakes from recv() or sendall(), and closes it.
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _set_evictable(self, client: socket.socket, peer: str) -> None:
        with self._lock:
            self._evictable[client] = peer

    def _keep(self, client: socket.socket) -> None:
        with self._lock:
            self._evictable.pop(client, None)

    def _handle(self, client: socket.socket, peer: str) -> None:
        # A client that has gone before its answer is no error.
        with contextlib.suppress(OSError), contextlib.ExitStack() as leave:
            leave.callback(self._places.release)
            leave.enter_context(client)
            leave.callback(self._keep, client)
            head = _read_head(client, self._limits.request_seconds)
            self._keep(client)
            method, answer = _answer(head, self._pages)
            body = answer.body.encode()
            lines = (
                f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
                f"Content-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n"
                "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
            ).encode()
            self._send(client, peer, lines if method == "HEAD" else lines + body)

    def _send(self, client: socket.socket, peer: str, answer: bytes) -> None:
        """Send what the kernel takes at once; the rest is up to the client, who may lose his place meanwhile."""
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            answer = answer[client.send(answer) :]
        if answer:
            self._set_evictable(client, peer)
            client.settimeout(self._limits.request_seconds)  # for all of it
            client.sendall(answer)


def _read_head(client: socket.socket, seconds: float) -> bytes:
    # For the whole of it: who says a byte now and then must not hold a place for hours.
    deadline = time.monotonic() + seconds
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_LIMIT_BYTES:
        client.settimeout(max(deadline - time.monotonic(), 0.001))
        data = client.recv(_HEAD_LIMIT_BYTES)
        if not data:
            break
        head += data
    return head


def _answer(head: bytes, pages: Mapping[str, Page]) -> tuple[str, Answer]:
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if b"\r\n\r\n" not in head or len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", Answer(400, "not an HTTP/1 request\n")
    method, target, _ = words
    page = pages.get(target.partition("?")[0])
    if page is None:
        return method, Answer(404, "404 page not found\n")
    if method not in ("GET", "HEAD"):
        return method, Answer(405, "only GET and HEAD\n")
    try:
        return method, page()
    except Exception as error:
        log.exception("a page failed", extra=logs.fields(target=target))
        return method, Answer(500, f"internal error: {type(error).__name__}\n")
