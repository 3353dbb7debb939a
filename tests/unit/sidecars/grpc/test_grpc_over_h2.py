"""Our small gRPC and the real one understand each other, in both directions, in success and in failure."""

from __future__ import annotations

import itertools
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.sidecars import csi_client
from oneagent.sidecars.grpc import client as grpc_client
from oneagent.sidecars.grpc import protocol
from oneagent.sidecars.grpc import server as grpc_server
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode
from tests.fakes.identity import IdentityDriver

ECHO = "/test.Echo/Say"
FAIL = "/test.Echo/Fail"
BREAK = "/test.Echo/Break"
SLOW = "/test.Echo/Slow"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@pytest.fixture
def driver(path: Path) -> Iterator[IdentityDriver]:
    with IdentityDriver(path) as driver:
        yield driver


def fail(request: bytes) -> bytes:
    raise RpcError(StatusCode.NOT_FOUND, request.decode())


def break_down(_request: bytes) -> bytes:
    raise ZeroDivisionError("with a secret")


def answer_slowly(request: bytes) -> bytes:
    time.sleep(0.5)
    return request


@pytest.fixture
def server(path: Path) -> Iterator[grpc_server.Server]:
    handlers: dict[str, grpc_server.Handler] = {
        ECHO: lambda request: request,
        FAIL: fail,
        BREAK: break_down,
        SLOW: answer_slowly,
    }
    server = grpc_server.Server(path, handlers)
    server.ensure_socket()
    yield server
    server.stop(5)


@pytest.fixture
def say(server: grpc_server.Server, path: Path) -> Iterator[Callable[..., bytes]]:
    """A call by grpcio to our server: `say(request, method)`."""
    with grpc.insecure_channel(f"unix:{path}") as channel:

        def call(request: bytes, method: str = ECHO) -> bytes:
            multicallable: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return multicallable(request, timeout=30)

        yield call


# our client and grpcio's server


def test_a_driver_says_its_name(driver: IdentityDriver, path: Path) -> None:
    assert csi_client.Driver(str(path), 3).name() == "csi.oneagent.dynatrace.com"


@pytest.mark.parametrize(("said", "meant"), [(True, True), (False, False), (None, True)])
def test_a_driver_that_does_not_say_whether_it_is_ready_is(
    driver: IdentityDriver, path: Path, said: bool | None, meant: bool
) -> None:
    driver.ready = said
    assert csi_client.Driver(str(path), 3).ready() is meant


def test_a_failed_call_carries_the_servers_status_and_reason(driver: IdentityDriver, path: Path) -> None:
    driver.failure = grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(RpcError) as failed:
        csi_client.Driver(str(path), 3).ready()
    assert (failed.value.status, failed.value.detail) == (StatusCode.FAILED_PRECONDITION, "told to fail")


def test_a_call_without_answer_ends_at_its_deadline(driver: IdentityDriver, path: Path) -> None:
    driver.hang = True
    started = time.monotonic()
    with pytest.raises(RpcError) as failed:
        csi_client.Driver(str(path), 0.3).ready()
    assert failed.value.status is StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - started < 10


def test_a_missing_socket_is_tried_until_the_deadline(path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RpcError, match="No such file") as failed:
        csi_client.Driver(str(path), 0.3).ready()
    assert failed.value.status is StatusCode.UNAVAILABLE
    assert 0.2 < time.monotonic() - started < 10


def test_a_driver_that_appears_before_the_deadline_is_reached(path: Path) -> None:
    driver = IdentityDriver(path)
    later = threading.Timer(0.3, driver.start)
    later.start()
    try:
        assert csi_client.Driver(str(path), 3).ready()
    finally:
        later.join()
        driver.stop()


@pytest.mark.parametrize("noise", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100])
def test_something_else_at_the_socket_is_an_error_and_no_crash(path: Path, noise: bytes) -> None:
    with socket.create_server(str(path), family=socket.AF_UNIX) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(noise)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RpcError) as failed:
            grpc_client.call(str(path), ECHO, b"", 2)
        thread.join()
    assert failed.value.status is StatusCode.UNAVAILABLE


def test_an_answer_that_is_not_the_expected_message_is_an_error(path: Path) -> None:
    handlers: dict[str, grpc_server.Handler] = {csi_client.PROBE: lambda _: b"\xff\xff\xff"}
    server = grpc_server.Server(path, handlers)
    server.ensure_socket()
    try:
        with pytest.raises(RpcError) as failed:
            csi_client.Driver(str(path), 3).ready()
    finally:
        server.stop(1)
    assert failed.value.status is StatusCode.INTERNAL


def test_waiting_for_a_driver_ends_at_the_limit(path: Path) -> None:
    assert csi_client.wait_for_socket(str(path), 0.2) is False


def test_waiting_for_a_driver_ends_when_it_is_there(driver: IdentityDriver, path: Path) -> None:
    assert csi_client.wait_for_socket(str(path), None) is True


def test_calls_are_observed_with_their_end(driver: IdentityDriver, path: Path) -> None:
    seen: list[tuple[str, StatusCode]] = []
    watched = csi_client.Driver(str(path), 3, lambda method, status, _seconds: seen.append((method, status)))
    watched.name()
    driver.failure = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(RpcError):
        watched.ready()
    assert seen == [(csi_client.GET_PLUGIN_INFO, StatusCode.OK), (csi_client.PROBE, StatusCode.UNAVAILABLE)]


# our server and grpcio's client


@pytest.mark.parametrize("length", [0, 1, 16384, 65000])
def test_messages_come_back_as_they_went(say: Callable[..., bytes], length: int) -> None:
    assert say(b"x" * length) == b"x" * length


def test_a_connection_carries_many_calls(say: Callable[..., bytes]) -> None:
    # 400 KiB in all: more than a connection's first flow-control window.
    for number in range(100):
        message = struct.pack("<I", number) * 1024
        assert say(message) == message


def test_calls_in_parallel_are_all_answered(say: Callable[..., bytes]) -> None:
    messages = [bytes([number]) for number in range(20)]
    with futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(say, messages)) == messages


@pytest.mark.parametrize("reason", ["plain", "50 % ünlesbar\n\t", ""])
def test_a_handlers_error_arrives_with_status_and_reason(say: Callable[..., bytes], reason: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        say(reason.encode(), FAIL)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert failed.value.details() == reason


def test_a_handlers_breakdown_is_an_internal_error_without_its_text(say: Callable[..., bytes]) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        say(b"", BREAK)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (failed.value.details() or "")
    assert say(b"still there") == b"still there"


def test_an_unknown_method_is_unimplemented(say: Callable[..., bytes]) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        say(b"", "/test.Echo/Other")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_noise_ends_its_own_connection_only(say: Callable[..., bytes], path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as noisy:
        noisy.connect(str(path))
        noisy.sendall(b"GET / HTTP/1.1\r\n\r\n")
        noisy.settimeout(5)
        while noisy.recv(1000):
            pass
    assert say(b"still there") == b"still there"


# the socket


def test_only_its_owner_can_open_the_socket(server: grpc_server.Server, path: Path) -> None:
    assert stat.filemode(path.lstat().st_mode) == "srwx------"


def test_an_old_socket_is_replaced(path: Path) -> None:
    socket.create_server(str(path), family=socket.AF_UNIX).close()
    server = grpc_server.Server(path, {ECHO: lambda request: request})
    server.ensure_socket()
    try:
        assert grpc_client.call(str(path), ECHO, b"new", 2) == b"new"
    finally:
        server.stop(1)


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(grpc_server.SocketInUseError, match=r"s\.sock is not a socket"):
        grpc_server.Server(path, {}).ensure_socket()
    assert path.read_text() == "precious"


def test_a_removed_socket_is_made_anew_and_only_then(server: grpc_server.Server, path: Path) -> None:
    assert server.ensure_socket() is False
    for _ in range(3):
        path.unlink()
        assert server.ensure_socket() is True
        assert grpc_client.call(str(path), ECHO, b"again", 2) == b"again"


def test_a_successors_socket_survives_keep_and_stop(server: grpc_server.Server, path: Path) -> None:
    path.unlink()
    successor = grpc_server.Server(path, {ECHO: lambda _: b"successor"})
    successor.ensure_socket()
    try:
        assert server.ensure_socket() is False
        server.stop(1)
        assert grpc_client.call(str(path), ECHO, b"", 2) == b"successor"
    finally:
        successor.stop(1)
    assert not path.exists()


def test_stop_lets_a_call_in_flight_be_answered_and_then_removes_the_socket(
    server: grpc_server.Server, path: Path
) -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(grpc_client.call, str(path), SLOW, b"late", 3)
        time.sleep(0.2)
        server.stop(5)
        assert not path.exists()
        assert call.result() == b"late"


def test_stop_does_not_wait_for_idle_connections(server: grpc_server.Server, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(path))
        started = time.monotonic()
        server.stop(60)
        assert time.monotonic() - started < 10


# the wire


@given(st.text())
def test_reasons_survive_quoting_and_are_printable_ascii(reason: str) -> None:
    try:
        reason.encode()
    except UnicodeEncodeError:
        return
    quoted = protocol.quote(reason)
    assert all(" " <= letter <= "~" for letter in quoted)
    assert protocol.unquote(quoted) == reason


@given(st.binary(max_size=300))
def test_messages_survive_framing(message: bytes) -> None:
    assert protocol.unframe(protocol.frame(message)) == message


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\0\0\0\0\2x", b"\0\0\0\0\0x", b"\1\0\0\0\1x"])
def test_bodies_that_hold_no_single_plain_message_are_refused(body: bytes) -> None:
    with pytest.raises(RpcError):
        protocol.unframe(body)


@pytest.mark.parametrize(
    ("text", "status"),
    [("0", StatusCode.OK), ("14", StatusCode.UNAVAILABLE), ("17", StatusCode.UNKNOWN), ("", StatusCode.UNKNOWN)],
)
def test_statuses_that_nobody_knows_are_unknown(text: str, status: StatusCode) -> None:
    assert StatusCode.parse(text) is status


def test_our_statuses_are_grpcs() -> None:
    ours = {(status.name, int(status)) for status in StatusCode}
    assert ours == {(code.name, code.value[0]) for code in itertools.islice(grpc.StatusCode, 100)}
