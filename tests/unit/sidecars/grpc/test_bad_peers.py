"""What the sidecars' gRPC does at a peer that is slow, silent, hostile, leaving, or no HTTP/2 at all."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneagent.sidecars.grpc import client as grpc_client
from oneagent.sidecars.grpc import protocol
from oneagent.sidecars.grpc import server as grpc_server
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

ECHO = "/test.Echo/Say"
START = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]

Answer = Callable[[socket.socket, h2.connection.H2Connection], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@contextlib.contextmanager
def answering(path: Path, answer: Answer) -> Iterator[None]:
    """A server for one connection, which lets `answer` reply once the request on stream 1 has come."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            events: list[h2.events.Event] = []
            while not any(isinstance(event, h2.events.StreamEnded) for event in events):
                events += connection.receive_data(sock.recv(65536))
            answer(sock, connection)
            sock.sendall(connection.data_to_send())
            # Until the client closes.
            while sock.recv(65536):
                pass

    path.unlink(missing_ok=True)
    with socket.create_server(str(path), family=socket.AF_UNIX) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(20)
        assert not thread.is_alive()


def reply(connection: h2.connection.H2Connection, message: bytes) -> bytes:
    """The frames of a whole, good answer."""
    connection.send_headers(1, START)
    connection.send_data(1, protocol.frame(message))
    connection.send_headers(1, OK, end_stream=True)
    return connection.data_to_send()


def goaway(last_stream: int, code: int) -> bytes:
    return b"\0\0\x08\x07\0\0\0\0\0" + last_stream.to_bytes(4) + code.to_bytes(4)


PING = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"


def reset(code: int) -> bytes:
    return b"\0\0\x04\x03\0\0\0\0\x01" + code.to_bytes(4)


class TestOurClient:
    def failed(self, path: Path, timeout: float = 3) -> RpcError:
        with pytest.raises(RpcError) as failed:
            grpc_client.call(str(path), ECHO, b"", timeout)
        return failed.value

    def test_takes_the_answer_of_a_server_that_goes_away_gracefully(self, path: Path) -> None:
        def answer(sock: socket.socket, connection: h2.connection.H2Connection) -> None:
            sock.sendall(goaway(2**31 - 1, 0) + PING + reply(connection, b"last") + goaway(1, 0) + PING)

        with answering(path, answer):
            assert grpc_client.call(str(path), ECHO, b"", 3) == b"last"

    @pytest.mark.parametrize(("last_stream", "code"), [(0, 0), (1, 2), (0, 11)])
    def test_does_not_wait_for_an_answer_that_will_not_come(self, path: Path, last_stream: int, code: int) -> None:
        with answering(path, lambda sock, _: sock.sendall(goaway(last_stream, code))):
            error = self.failed(path)
        assert (error.status, error.detail) == (
            StatusCode.UNAVAILABLE,
            f"the server goes away, with HTTP/2 error {code}",
        )

    def test_takes_an_answer_that_is_followed_by_a_reset(self, path: Path) -> None:
        def answer(sock: socket.socket, connection: h2.connection.H2Connection) -> None:
            trailers_only = [*START, ("grpc-status", "12"), ("grpc-message", "none such")]
            connection.send_headers(1, trailers_only, end_stream=True)
            sock.sendall(connection.data_to_send() + reset(0))

        with answering(path, answer):
            assert self.failed(path).status is StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            (7, StatusCode.UNAVAILABLE),
            (8, StatusCode.CANCELLED),
            (11, StatusCode.RESOURCE_EXHAUSTED),
            (2, StatusCode.INTERNAL),
            (4711, StatusCode.INTERNAL),
        ],
    )
    def test_names_a_reset_as_grpc_does(self, path: Path, code: int, status: StatusCode) -> None:
        with answering(path, lambda sock, _: sock.sendall(reset(code))):
            assert self.failed(path).status is status

    def test_keeps_its_deadline_while_something_comes_all_the_time(self, path: Path) -> None:
        def trickle(sock: socket.socket, _connection: h2.connection.H2Connection) -> None:
            for _ in range(1000):
                sock.sendall(PING)
                time.sleep(0.02)

        started = time.monotonic()
        with answering(path, trickle):
            assert self.failed(path, 0.3).status is StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - started < 6

    @pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 9])
    def test_knows_what_is_no_http2_without_waiting_for_more(self, path: Path, noise: bytes) -> None:
        with answering(path, lambda sock, _: sock.sendall(noise)):
            error = self.failed(path)
        assert (error.status, error.detail) == (StatusCode.UNAVAILABLE, "what answers does not speak HTTP/2")

    def test_stops_reading_headers_that_do_not_end(self, path: Path) -> None:
        piece = b"\0\x10\0" + b"\x09\0\0\0\0\x01" + b"\0" * 4096

        def answer(sock: socket.socket, _connection: h2.connection.H2Connection) -> None:
            sock.sendall(b"\0\0\0\x01\0\0\0\0\x01" + piece * 1000)

        with answering(path, answer):
            assert self.failed(path).status is StatusCode.UNAVAILABLE

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
    def test_survives_any_noise_in_an_answer(self, path: Path, seed: int, changes: int) -> None:
        chance = random.Random(seed)

        def answer(sock: socket.socket, connection: h2.connection.H2Connection) -> None:
            raw = bytearray(connection.data_to_send() + reply(connection, b"answer") + goaway(1, 0))
            for _ in range(changes):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)

        with answering(path, answer), contextlib.suppress(RpcError):
            grpc_client.call(str(path), ECHO, b"", 3)


class Slow:
    """A method that answers a call for each `go_on`."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        self.begun = threading.Event()
        self.answered = 0

    def __call__(self, request: bytes) -> bytes:
        self.begun.set()
        self.go_on.acquire(timeout=10)
        self.answered += 1
        return request


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def server(path: Path, slow: Slow) -> Iterator[grpc_server.Server]:
    server = grpc_server.Server(path, {ECHO: lambda request: request, "/test.Echo/Slow": slow})
    server.ensure_socket()
    yield server
    slow.go_on.release(10)
    server.stop(10)
    assert not serving_threads()


def serving_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "grpc"]


class Client:
    """A client's connection that can do what no well-behaved one does."""

    def __init__(self, path: Path, window: int = 65535) -> None:
        self.sock = grpc_client.connect(str(path), time.monotonic() + 5)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})

    def ask(self, stream: int, message: bytes, method: str = ECHO) -> None:
        headers = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x")]
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, protocol.frame(message), end_stream=True)

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def read_until(self, kind: type[h2.events.Event], stream: int | None = None) -> list[h2.events.Event]:
        """All events up to one of a kind (of a stream)."""
        events: list[h2.events.Event] = []
        while not any(isinstance(e, kind) and stream in (None, getattr(e, "stream_id", None)) for e in events):
            data = self.sock.recv(65536)
            assert data, "the server has closed the connection"
            events += self.h2.receive_data(data)
            # What is said last may be said by a server that listens no more.
            with contextlib.suppress(BrokenPipeError):
                self.flush()
        return events

    def body(self, events: list[h2.events.Event]) -> bytes:
        return b"".join(event.data or b"" for event in events if isinstance(event, h2.events.DataReceived))


@pytest.fixture
def client(server: grpc_server.Server, path: Path) -> Iterator[Client]:
    client = Client(path)
    with client.sock:
        yield client


class TestOurServer:
    def still_answers(self, path: Path) -> bool:
        return grpc_client.call(str(path), ECHO, b"still there", 3) == b"still there"

    def test_waits_for_a_client_that_takes_nothing_yet(self, server: grpc_server.Server, path: Path) -> None:
        client = Client(path, window=0)
        with client.sock:
            client.ask(1, b"hello")
            client.flush()
            client.read_until(h2.events.ResponseReceived)
            client.h2.increment_flow_control_window(4, 1)
            client.flush()
            first = client.read_until(h2.events.DataReceived)
            client.h2.increment_flow_control_window(100, 1)
            client.flush()
            assert client.body(first + client.read_until(h2.events.StreamEnded)) == protocol.frame(b"hello")

    def test_goes_on_after_a_call_that_was_given_up_half_answered(self, server: grpc_server.Server, path: Path) -> None:
        client = Client(path, window=0)
        with client.sock:
            client.ask(1, b"hello")
            client.flush()
            client.read_until(h2.events.ResponseReceived)
            client.h2.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
            client.ask(3, b"again")
            client.flush()
            assert client.body(client.read_until(h2.events.StreamEnded, 3)) == protocol.frame(b"again")

    def test_answers_a_call_before_it_begins_the_next(self, client: Client, slow: Slow) -> None:
        client.ask(1, b"first")
        client.ask(3, b"second", "/test.Echo/Slow")
        client.flush()
        assert client.body(client.read_until(h2.events.StreamEnded, 1)).endswith(b"first")
        assert not slow.answered
        slow.go_on.release()
        assert client.body(client.read_until(h2.events.StreamEnded, 3)).endswith(b"second")

    def test_forgets_calls_that_are_given_up_at_once(self, client: Client) -> None:
        for stream in range(1, 401, 2):
            client.ask(stream, b"x")
            client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.ask(401, b"kept")
        client.flush()
        assert client.body(client.read_until(h2.events.StreamEnded, 401)).endswith(b"kept")

    def test_answers_pings_between_calls(self, client: Client, slow: Slow) -> None:
        client.ask(1, b"", "/test.Echo/Slow")
        client.ask(3, b"", "/test.Echo/Slow")
        client.flush()
        assert slow.begun.wait(10)
        client.h2.ping(b"12345678")
        client.flush()
        slow.go_on.release()
        events = client.read_until(h2.events.PingAckReceived)
        assert sum(isinstance(event, h2.events.StreamEnded) for event in events) <= 1

    def test_answers_a_client_that_says_no_more(self, client: Client) -> None:
        client.ask(1, b"last")
        client.flush()
        client.sock.shutdown(socket.SHUT_WR)
        assert client.body(client.read_until(h2.events.ConnectionTerminated)).endswith(b"last")

    def test_leaves_quietly_when_its_client_goes_away(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        client.ask(1, b"never mind")
        client.flush()
        client.sock.sendall(goaway(0, 0))
        while client.sock.recv(65536):
            pass
        assert "connection failed" not in caplog.text

    def test_says_what_a_client_has_done_wrong(self, client: Client) -> None:
        client.flush()
        client.sock.sendall(b"\0\0\0\0\0\0\0\0\0")  # DATA of no stream
        events = client.read_until(h2.events.ConnectionTerminated)
        assert [e.error_code for e in events if isinstance(e, h2.events.ConnectionTerminated)] == [
            h2.errors.ErrorCodes.PROTOCOL_ERROR
        ]

    def test_keeps_no_thread_of_clients_that_have_gone(self, server: grpc_server.Server, path: Path) -> None:
        for _ in range(30):
            client = Client(path)
            client.ask(1, b"x")
            client.flush()
            client.sock.close()
        deadline = time.monotonic() + 20
        while serving_threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not serving_threads()
        assert self.still_answers(path)

    def test_serves_others_while_some_say_nothing(self, server: grpc_server.Server, path: Path) -> None:
        with contextlib.ExitStack() as leave:
            for _ in range(50):
                leave.enter_context(Client(path).sock)
            assert self.still_answers(path)

    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
    def test_survives_any_noise_in_a_request(
        self, server: grpc_server.Server, path: Path, seed: int, changes: int
    ) -> None:
        chance = random.Random(seed)
        client = Client(path)
        with client.sock, contextlib.suppress(OSError):
            client.ask(1, b"hello")
            raw = bytearray(client.h2.data_to_send())
            for _ in range(changes):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            client.sock.sendall(raw)
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(65536):
                pass
        assert self.still_answers(path)

    def test_accepts_again_after_it_ran_out_of_file_descriptors(self, server: grpc_server.Server, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as waiting:
            spent: list[int] = []
            with contextlib.suppress(OSError):
                while True:
                    spent.append(os.dup(0))
            try:
                waiting.connect(str(path))
                time.sleep(0.1)
            finally:
                for descriptor in spent:
                    os.close(descriptor)
            waiting.settimeout(5)
            assert waiting.recv(100)
        assert self.still_answers(path)
