"""Servers on aiohttp, with and without TLS, among clients that open connections and say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
import trustme
from aiohttp import web

from oneagent.common.http.bounded_listener import BoundedListener
from oneagent.common.http.connections import ConnectionLimits
from oneagent.common.http.health import HealthServer

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = ConnectionLimits(connections=4, request_seconds=0.5, idle_seconds=0.5)


@contextlib.contextmanager
def running() -> Iterator[Callable[[Any], Any]]:
    """An event loop in a thread, and what runs a coroutine on it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def port() -> Iterator[int]:
    """Of a health server that is in a hurry."""
    with running() as do:
        server = HealthServer("127.0.0.1", 0, lambda: "", prometheus_client.CollectorRegistry(), QUICK)
        do(server.start())
        yield server.port
        do(server.stop())


@contextlib.contextmanager
def serving_tls(limits: ConnectionLimits, authority: trustme.CA) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        with listener.answering(request):
            return web.Response(text="ok")

    async def start() -> int:
        server = web.Server(answer)
        return await listener.start(server, "127.0.0.1", 0)

    with running() as do:
        listener = BoundedListener(limits, context)
        yield do(start())
        do(listener.stop())


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def wrap(plain: socket.socket, authority: trustme.CA) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context.wrap_socket(plain, server_hostname="localhost")


def is_answered(port: int) -> bool:
    with connect(port) as client:
        client.sendall(REQUEST)
        return client.recv(100).startswith(b"HTTP/1.1 200")


NEVER_SECONDS = 15.0


def ended_after(client: socket.socket, *, drip: bytes = b"") -> float:
    """Seconds until the server closes a connection, on which something may come now and then."""
    began = time.monotonic()
    client.settimeout(0.05)
    while time.monotonic() - began < NEVER_SECONDS:
        try:
            client.sendall(drip)
            if client.recv(4096) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.01)


class TestAConnection:
    @pytest.mark.parametrize(
        ("beginning", "drip"),
        [
            (b"", b""),
            (b"GET /livez HTTP/1.1\r\nX: ", b"x"),
            (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"x"),
            (b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ],
    )
    def test_without_a_whole_request_is_closed(self, port: int, beginning: bytes, drip: bytes) -> None:
        with connect(port) as client:
            client.sendall(beginning)
            assert ended_after(client, drip=drip) < NEVER_SECONDS

    def test_is_closed_when_it_rests_after_an_answer(self, port: int) -> None:
        with connect(port) as client:
            client.sendall(REQUEST)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            assert 0.3 < ended_after(client) < NEVER_SECONDS

    def test_may_rest_longer_where_that_is_said(self) -> None:
        authority = trustme.CA()
        limits = ConnectionLimits(connections=4, request_seconds=0.3, idle_seconds=1.2)
        with serving_tls(limits, authority) as port, connect(port) as plain, wrap(plain, authority) as client:
            client.sendall(REQUEST)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            assert 1.0 < ended_after(client) < NEVER_SECONDS

    def test_without_a_handshake_is_closed(self) -> None:
        with serving_tls(QUICK, trustme.CA()) as port, connect(port) as client:
            assert ended_after(client) < NEVER_SECONDS

    def test_is_served_by_ipv4_and_ipv6(self) -> None:
        with running() as do:
            server = HealthServer("", 0, lambda: "", prometheus_client.CollectorRegistry())
            do(server.start())
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, server.port), timeout=5) as client:
                    client.sendall(REQUEST)
                    assert client.recv(100).startswith(b"HTTP/1.1 200")
            do(server.stop())


class TestBeyondTheBound:
    def test_the_oldest_end_and_who_asks_is_answered(self, port: int) -> None:
        before = open_descriptors()
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connect(port)) for _ in range(40)]
            assert is_answered(port)
            # Each that is open is open twice: both ends are in this process.
            eventually(lambda: open_descriptors() <= before + len(idle) + QUICK.connections)
            assert idle[0].recv(1) == b""

    def test_handshakes_that_never_end_count(self) -> None:
        authority, before = trustme.CA(), open_descriptors()
        with serving_tls(ConnectionLimits(connections=4), authority) as port, contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connect(port)) for _ in range(40)]
            plain = stack.enter_context(connect(port))
            client = stack.enter_context(wrap(plain, authority))
            client.sendall(REQUEST)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            eventually(lambda: idle[0].recv(1) == b"")
            assert open_descriptors() < before + len(idle) + 20

    def test_a_request_that_is_being_answered_goes_on(self) -> None:
        with running() as do:
            release = asyncio.Event()
            answered: list[web.BaseRequest] = []

            async def answer(request: web.BaseRequest) -> web.StreamResponse:
                with listener.answering(request):
                    answered.append(request)
                    await release.wait()
                    return web.Response(text="ok")

            async def start() -> int:
                return await listener.start(web.Server(answer), "127.0.0.1", 0)

            async def let_go() -> None:
                release.set()

            listener = BoundedListener(ConnectionLimits(connections=2, request_seconds=0.2))
            port = do(start())
            with contextlib.ExitStack() as stack:
                clients = []
                for _ in range(2):
                    clients.append(stack.enter_context(connect(port)))
                    clients[-1].sendall(REQUEST)
                    eventually(lambda: len(answered) == len(clients))
                clients.append(stack.enter_context(connect(port)))
                clients[-1].sendall(REQUEST)
                time.sleep(0.5)  # more than the time of a request that is not complete
                do(let_go())
                assert all(client.recv(100).startswith(b"HTTP/1.1 200") for client in clients)
            do(listener.stop())
