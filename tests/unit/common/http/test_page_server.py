"""The small HTTP server, as kubelet and Prometheus meet it, and neighbours who mean it no good."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from oneagent.common import addresses
from oneagent.common.addresses import AddressError
from oneagent.common.http import connections, page_server
from oneagent.common.http.connections import ConnectionLimits
from oneagent.common.http.page_server import Answer


def broken() -> Answer:
    raise ZeroDivisionError("with a secret")


@pytest.fixture(scope="module")
def address() -> str:
    pages: dict[str, page_server.Page] = {
        "/healthz": lambda: Answer(200, "ok"),
        "/bad": lambda: Answer(500, "not ünwell"),
        "/broken": broken,
    }
    return page_server.serve("127.0.0.1:0", pages)


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/healthz", 200, "ok"),
        ("GET", "/healthz?verbose", 200, "ok"),
        ("HEAD", "/healthz", 200, ""),
        ("GET", "/bad", 500, "not ünwell"),
        ("GET", "/broken", 500, "internal error: ZeroDivisionError\n"),
        ("GET", "/", 404, "404 page not found\n"),
        ("POST", "/healthz", 405, "only GET and HEAD\n"),
    ],
)
def test_pages_are_answered(address: str, method: str, path: str, status: int, body: str) -> None:
    assert ask(address, path, method) == (status, body)


@pytest.mark.parametrize("noise", [b"\r\n\r\n", b"GET /healthz\r\n\r\n", b"\0" * 8192, b"GET / HTTP/2.0\r\n\r\n"])
def test_noise_is_a_bad_request(address: str, noise: bytes) -> None:
    host, port = addresses.split(address)
    with socket.create_connection((host, port), timeout=5) as client:
        client.sendall(noise)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_silent_client_does_not_keep_others_waiting(address: str) -> None:
    host, port = addresses.split(address)
    with socket.create_connection((host, port)):
        assert ask(address, "/healthz") == (200, "ok")


def test_a_port_has_32_places_and_a_request_10_seconds() -> None:
    assert ConnectionLimits() == ConnectionLimits(connections=32, request_seconds=10, idle_seconds=10)


@pytest.fixture
def hurried() -> str:
    pages = {"/healthz": lambda: Answer(200, "ok"), "/large": lambda: Answer(200, "x" * (32 << 20))}
    return page_server.serve("127.0.0.1:0", pages, ConnectionLimits(connections=4, request_seconds=0.5))


def connect(address: str) -> socket.socket:
    return socket.create_connection(addresses.split(address), timeout=5)


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nX: "])
def test_a_client_that_does_not_come_to_an_end_is_left(hurried: str, beginning: bytes) -> None:
    started = time.monotonic()
    with connect(hurried) as client:
        client.sendall(beginning)
        client.settimeout(0.05)
        ended = False
        while not ended:
            try:
                client.sendall(b"x" if beginning else b"")
                ended = client.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert 0.4 < time.monotonic() - started < 10


def test_a_client_that_does_not_take_its_answer_is_left(hurried: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with connect(hurried) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        client.recv(1, socket.MSG_PEEK)
        # Both ends are in this process: what stays is the client's.
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)
        taken = 0
        with contextlib.suppress(OSError):
            while block := client.recv(1 << 20):
                taken += len(block)
        assert taken < 32 << 20


def test_beyond_the_bound_the_oldest_connections_end_and_who_asks_is_answered(hurried: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(hurried)) for _ in range(40)]
        assert ask(hurried, "/healthz") == (200, "ok")
        # Each that is open is open twice: both ends are in this process.
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + len(idle) + 4)
        assert idle[0].recv(1) == b""


def test_neighbours_take_no_places_from_others_than_themselves() -> None:
    peers = {1: "kubelet", **dict.fromkeys(range(2, 6), "neighbour")}
    assert connections.choose_evicted(peers) == 2
    assert connections.choose_evicted({1: "a", 2: "b"}) == 1
    assert connections.choose_evicted({}) is None


def test_while_all_places_are_answered_a_new_client_waits_for_one() -> None:
    release, running = threading.Event(), threading.Semaphore(0)

    def wait() -> Answer:
        running.release()
        release.wait(5)
        return Answer(200, "ok")

    address = page_server.serve("127.0.0.1:0", {"/healthz": wait}, ConnectionLimits(connections=2))
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(ask, address, "/healthz") for _ in range(2)]
        assert all(running.acquire(timeout=5) for _ in answers)
        answers.append(threads.submit(ask, address, "/healthz"))
        assert not running.acquire(timeout=0.3)
        release.set()
        assert [answer.result(10) for answer in answers] == [(200, "ok")] * 3


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.01)


def test_slow_pages_are_answered_side_by_side() -> None:
    barrier = threading.Barrier(3)

    def meet() -> Answer:
        barrier.wait(5)
        return Answer(200, "ok")

    address = page_server.serve("127.0.0.1:0", {"/healthz": meet})
    threads = [threading.Thread(target=ask, args=(address, "/healthz")) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert ask(address, "/healthz") == (200, "ok")
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        (":9808", ("", 9808)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_gos(address: str, parts: tuple[str, int]) -> None:
    assert addresses.split(address) == parts


@pytest.mark.parametrize("address", ["", "9808", "localhost", ":http", ":65536", "::1:80"])
def test_what_is_no_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(AddressError, match="is not an address such as :9808"):
        addresses.split(address)


def test_an_address_in_use_is_refused_by_name(address: str) -> None:
    with pytest.raises(AddressError, match=f"cannot listen at {address}"):
        page_server.serve(address, {})


def test_no_host_means_all_of_them() -> None:
    bound = page_server.serve(":0", {"/healthz": lambda: Answer(200, "ok")})
    port = bound.rpartition(":")[2]
    assert ask(f"127.0.0.1:{port}", "/healthz") == (200, "ok")
    assert ask(f"[::1]:{port}", "/healthz") == (200, "ok")


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_node_without_ipv6_is_served_by_ipv4(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    create = socket.create_server

    def refuse(address: tuple[str, int], *, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, "no IPv6 here")
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", refuse)
    bound = page_server.serve(":0", {"/healthz": lambda: Answer(200, "ok")})
    assert ask(f"127.0.0.1:{bound.rpartition(':')[2]}", "/healthz") == (200, "ok")
