"""A small HTTP/1.1 server for probes and metrics: GET and HEAD of a few fixed paths.

Not `http.server`: that one brings `http.client`, `email` and `ssl`, 10 MiB of memory on every node for two
short answers. Each request has its own connection and thread, at most eight at a time, and five seconds to be
said; a page that takes longer (a health check that waits) is the page's own affair.

    AddressError    an address is not `host:port`, or nothing can listen there
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from oneagent.common import logs

log = logging.getLogger(__name__)

_HEAD_LIMIT_BYTES: Final = 8 * 1024
_TIMEOUT_SECONDS: Final = 5.0
_PARALLEL_REQUESTS: Final = 32
_ACCEPT_RETRY_SECONDS: Final = 0.5
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}


class AddressError(Exception):
    """The server cannot be had at the address that was asked for."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a page says."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Answer]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `:9808`, `0.0.0.0:9808`, `localhost:9808` or `[::1]:9808`; no host means all."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host) != host.startswith("["):
        raise AddressError(f"{address!r} is not an address such as :9808 or 127.0.0.1:9808")
    return host.strip("[]"), int(port)


def serve(address: str, pages: Mapping[str, Page]) -> str:
    """Answer `pages` (by path) at `address` while the process lives; returns `host:port` as bound."""
    host, port = split_address(address)
    try:
        listener = _listen(host, port)
    except OSError as error:
        raise AddressError(f"cannot listen at {address}: {error.strerror or error}") from error
    threading.Thread(target=_accept, args=(listener, pages), name="http", daemon=True).start()
    bound_host, bound_port = listener.getsockname()[:2]
    return f"{bound_host}:{bound_port}"


def _listen(host: str, port: int) -> socket.socket:
    if host:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where, family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _accept(listener: socket.socket, pages: Mapping[str, Page]) -> None:
    slots = threading.BoundedSemaphore(_PARALLEL_REQUESTS)
    while True:
        slots.acquire()
        try:
            client, _ = listener.accept()
        except OSError as error:
            log.warning("no connection could be accepted", extra=logs.fields(reason=error))
            slots.release()
            time.sleep(_ACCEPT_RETRY_SECONDS)
            continue
        threading.Thread(target=_handle, args=(client, pages, slots), name="http-request", daemon=True).start()


def _handle(client: socket.socket, pages: Mapping[str, Page], slots: threading.BoundedSemaphore) -> None:
    # A client that has gone before its answer is no error.
    with contextlib.suppress(OSError), contextlib.ExitStack() as leave:
        leave.callback(slots.release)
        leave.enter_context(client)
        method, answer = _answer(_read_head(client), pages)
        client.settimeout(_TIMEOUT_SECONDS)
        body = answer.body.encode()
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        ).encode()
        client.sendall(head if method == "HEAD" else head + body)


def _read_head(client: socket.socket) -> bytes:
    # For the whole of it: who says a byte now and then must not hold a slot for hours.
    deadline = time.monotonic() + _TIMEOUT_SECONDS
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
