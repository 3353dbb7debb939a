"""Network backend of the HTTP client: sockets whose every wait obeys the limits of the current exchange.

All bytes of a request pass here, so that no phase is left out: name, connection, TLS, a proxy's answer, informational
responses, headers and body. Sockets never block; waits are slices of `exchange.SLICE_SECONDS`.
"""

from __future__ import annotations

import functools
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import httpcore2 as httpcore

from oneagent.common.http import exchange

_TLS_BLOCK: Final = 64 * 1024
_Address = tuple[Any, ...]
_T = TypeVar("_T")


class Backend(httpcore.NetworkBackend):
    """Opens TCP connections for the HTTP library."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address of the host that accepts one."""
        del local_address, socket_options  # Never set by our client.
        until = exchange.current().until(timeout)
        try:
            return _SocketStream(_connect(_resolve(host, port, until), until))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error


class _SocketStream(httpcore.NetworkStream):
    """A connection, with or without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = self._complete(functools.partial(self._socket.recv, max_bytes), select.POLLIN, timeout)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error
        exchange.current().add_received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        try:
            while view:
                view = view[self._complete(functools.partial(self._socket.send, view), select.POLLOUT, timeout) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        if isinstance(self._socket, ssl.SSLSocket):
            return _TunnelStream(self, ssl_context, server_hostname, timeout)
        try:
            secured = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._socket = secured
            self._complete(secured.do_handshake, select.POLLIN, timeout)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, (OSError, ValueError)):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            # Also True for a closed socket: neither can be used for another request.
            return self._socket.fileno() < 0 or bool(_poller(self._socket, select.POLLIN).poll(0))
        return self._socket if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket) else None

    def _complete(self, operation: Callable[[], _T], mask: int, timeout: float | None) -> _T:
        """Run an operation of the socket until it does not have to wait; `TimeoutError`, or another `OSError`."""
        limits = exchange.current()
        limits.check()
        until = limits.until(timeout)
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = mask
            _wait(self._socket, wanted, until)


class _TunnelStream(httpcore.NetworkStream):
    """TLS with a server inside of TLS with a proxy."""

    def __init__(
        self, outer: _SocketStream, context: ssl.SSLContext, hostname: str | None, timeout: float | None
    ) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        try:
            self._complete(self._tls.do_handshake, timeout)
        except ssl.SSLError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._complete(functools.partial(self._tls.read, max_bytes), timeout)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        try:
            while view:
                view = view[self._complete(functools.partial(self._tls.write, view), timeout) :]
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._outer.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("TLS inside of TLS inside of TLS")

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._outer.get_extra_info(info)

    def _complete(self, operation: Callable[[], _T], timeout: float | None) -> _T:
        """Run an operation of the inner TLS, and move its bytes through the outer one."""
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush(timeout)
                if data := self._outer.read(_TLS_BLOCK, timeout):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush(timeout)
                return result

    def _flush(self, timeout: float | None) -> None:
        if data := self._outgoing.read():
            self._outer.write(data, timeout)


def _resolve(host: str, port: int, until: float) -> list[_Address]:
    """Return the host's addresses, as `getaddrinfo`."""
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except socket.gaierror:
        pass
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The system's resolver can't be interrupted: its thread is left behind, and ends by the resolver's own time limit.
    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    limits = exchange.current()
    while True:
        try:
            answer = answers.get(timeout=limits.next_wait(until))
        except queue.Empty:
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer


def _connect(addresses: list[_Address], until: float) -> socket.socket:
    """Connect to the first address that accepts; each gets its share of the time that is left."""
    failure = OSError("the host has no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        now = time.monotonic()
        share = now + (until - now) / (len(addresses) - index)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                sock.connect(address)
            except BlockingIOError:
                _wait(sock, select.POLLOUT, share)
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code)) from None
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


def _wait(sock: socket.socket, mask: int, until: float) -> None:
    """Wait for a socket; `TimeoutError` at `until`, and as `Exchange.next_wait`."""
    limits, poller = exchange.current(), _poller(sock, mask)
    while True:
        seconds = limits.next_wait(until)
        began = time.monotonic()
        is_ready = poller.poll(seconds * 1000 + 1)
        limits.add_waited(time.monotonic() - began)
        if is_ready:
            return


def _poller(sock: socket.socket, mask: int) -> select.poll:
    poller = select.poll()
    poller.register(sock.fileno(), mask)
    return poller
