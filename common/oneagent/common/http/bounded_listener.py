"""Listening for aiohttp with a bound on connections, and on the time in which a request has to be complete.

aiohttp's own sites accept whatever comes, and count a connection with TLS only after its handshake. This one counts
from the first moment, and knows by two calls of the server's handlers whose request is complete:

    answering   around the handler: a request without a body is complete when its handler begins
    received    the handler has read the body

`middleware` makes the first for an application. A connection that rests is closed after its time, and one that is
answered never is. Beyond the bound see `connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from oneagent.common import logs
from oneagent.common.http import connections
from oneagent.common.http.connections import ConnectionLimits

log = logging.getLogger(__name__)

_ACCEPT_RETRY_SECONDS: Final = 0.5

Factory = Callable[[], asyncio.Protocol]


class BoundedListener:
    """For one event loop."""

    def __init__(self, limits: ConnectionLimits = connections.DEFAULT, tls: ssl.SSLContext | None = None) -> None:
        self._limits, self._tls = limits, tls
        self._open: dict[_Connection, str] = {}
        """By age, with their peers"""
        self._by_protocol: dict[asyncio.BaseProtocol, _Connection] = {}
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    async def start(self, factory: Factory, host: str, port: int) -> int:
        """Listen and return the port; `OSError` if that is not possible. `factory` is aiohttp's `web.Server`."""
        self._listener = connections.listen(host, port, self._limits.backlog)
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._listener, factory), name="accept")
        return int(self._listener.getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing more. What is open stays so, and belongs to the server."""
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._open):
            connection.abandon_handshake()

    @contextlib.contextmanager
    def answering(self, request: web.BaseRequest) -> Iterator[None]:
        """Surround the handler of a request with this."""
        connection = self._by_protocol.get(request.protocol)
        if request.content.is_eof() and connection is not None:
            connection.hold()
        try:
            yield
        finally:
            if connection is not None:
                # aiohttp writes the answer first, as far as it gets without waiting.
                asyncio.get_running_loop().call_soon(connection.release)

    def received(self, request: web.BaseRequest) -> None:
        """The body of a request has been read."""
        if (connection := self._by_protocol.get(request.protocol)) is not None:
            connection.hold()

    def middleware(self) -> Middleware:
        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            with self.answering(request):
                return await handler(request)

        return answer

    async def _accept(self, listener: socket.socket, factory: Factory) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("no connection could be accepted", extra=logs.fields(reason=error))
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            try:
                await self._make_room()
            except asyncio.CancelledError:
                client.close()
                raise
            self._begin(client, str(address[0]), factory())
            # A connection that is there already is accepted without waiting: the others have their turn here.
            await asyncio.sleep(0)

    async def _make_room(self) -> None:
        """Evict a connection, or wait while all requests are being answered; the kernel has those that come then."""
        while len(self._open) >= self._limits.connections:
            resting = {connection: peer for connection, peer in self._open.items() if not connection.held}
            if (evicted := connections.choose_evicted(resting)) is not None:
                evicted.abort()
            else:
                self._room.clear()
                await self._room.wait()

    def _begin(self, client: socket.socket, peer: str, protocol: asyncio.Protocol) -> None:
        connection = _Connection(protocol, self._limits, self._ended, self._room.set)
        self._open[connection] = peer
        self._by_protocol[protocol] = connection
        connection.begin(client, self._tls)

    def _ended(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        self._by_protocol.pop(connection.protocol, None)
        self._room.set()


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and ends when its time is up."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        limits: ConnectionLimits,
        ended: Callable[[_Connection], None],
        released: Callable[[], None],
    ) -> None:
        self.protocol = protocol
        self.held = False
        """Its request is complete, and being answered"""
        self._limits, self._ended, self._released = limits, ended, released
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._may_rest = False

    def begin(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._set_timer(self._limits.request_seconds)
        self._opening = asyncio.create_task(self._connect(client, tls))

    def hold(self) -> None:
        self.held = True
        self._stop_timer()

    def release(self) -> None:
        self.held = False
        self._may_rest = True
        if not self._is_over():
            self._set_timer(min(self._limits.request_seconds, self._limits.idle_seconds))
        self._released()

    def abort(self) -> None:
        """End it now; it counts no more."""
        self._stop_timer()
        self._ended(self)
        if self._transport is not None:
            self._transport.abort()
        else:
            self.abandon_handshake()

    def abandon_handshake(self) -> None:
        if self._transport is None and self._opening is not None:
            self._opening.cancel()

    async def _connect(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        seconds = self._limits.request_seconds if tls is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, client, ssl=tls, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except (OSError, asyncio.CancelledError):
            # A handshake that failed, or took too long.
            client.close()
            self.connection_lost(None)

    def _is_over(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        longer = self._limits.idle_seconds - self._limits.request_seconds
        answered = self._transport is not None and not self._transport.get_write_buffer_size()
        if self._may_rest and longer > 0 and answered:
            self._may_rest = False
            self._set_timer(longer)
        else:
            self.abort()

    # Called by the event loop, from here on.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._ended(self)
        if self._transport is not None:
            self.protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def eof_received(self) -> Any:
        return self.protocol.eof_received()

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()
