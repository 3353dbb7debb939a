"""The small HTTP server and the metrics page, as kubelet and Prometheus meet them."""

from __future__ import annotations

import http.client
import socket
import threading
import time

import pytest
from prometheus_client import parser

from oneagent.sidecars import http_server, metrics
from oneagent.sidecars.grpc.protocol import StatusCode
from oneagent.sidecars.http_server import Answer


def broken() -> Answer:
    raise ZeroDivisionError("with a secret")


@pytest.fixture(scope="module")
def address() -> str:
    pages: dict[str, http_server.Page] = {
        "/healthz": lambda: Answer(200, "ok"),
        "/bad": lambda: Answer(500, "not ünwell"),
        "/broken": broken,
    }
    return http_server.serve("127.0.0.1:0", pages)


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
    host, port = http_server.split_address(address)
    with socket.create_connection((host, port), timeout=5) as client:
        client.sendall(noise)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_silent_client_does_not_keep_others_waiting(address: str) -> None:
    host, port = http_server.split_address(address)
    with socket.create_connection((host, port)):
        assert ask(address, "/healthz") == (200, "ok")


def test_a_client_that_says_a_byte_now_and_then_is_left(address: str) -> None:
    host, port = http_server.split_address(address)
    started = time.monotonic()
    with socket.create_connection((host, port)) as client:
        try:
            while time.monotonic() - started < 10:
                client.sendall(b"G")
                time.sleep(0.1)
        except OSError:
            pass
    assert 4.5 < time.monotonic() - started < 6


def test_slow_pages_are_answered_side_by_side() -> None:
    barrier = threading.Barrier(3)

    def meet() -> Answer:
        barrier.wait(5)
        return Answer(200, "ok")

    address = http_server.serve("127.0.0.1:0", {"/healthz": meet})
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
    assert http_server.split_address(address) == parts


@pytest.mark.parametrize("address", ["", "9808", "localhost", ":http", ":65536", "::1:80"])
def test_what_is_no_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(http_server.AddressError, match="is not an address such as :9808"):
        http_server.split_address(address)


def test_an_address_in_use_is_refused_by_name(address: str) -> None:
    with pytest.raises(http_server.AddressError, match=f"cannot listen at {address}"):
        http_server.serve(address, {})


def test_no_host_means_all_of_them() -> None:
    bound = http_server.serve(":0", {"/healthz": lambda: Answer(200, "ok")})
    port = bound.rpartition(":")[2]
    assert ask(f"127.0.0.1:{port}", "/healthz") == (200, "ok")


def test_prometheus_understands_the_metrics() -> None:
    operations = metrics.Operations()
    for seconds in (0.05, 0.1, 3.0, 1000.0):
        operations.observe('a"b\\c', "/csi.v1.Identity/Probe", StatusCode.OK, seconds)
    operations.observe("d", "/csi.v1.Identity/Probe", StatusCode.DEADLINE_EXCEEDED, 3.0)
    families = {family.name: family for family in parser.text_string_to_metric_families(operations.render())}
    family = families["csi_sidecar_operations_seconds"]
    assert family.type == "histogram"
    ours = [sample for sample in family.samples if sample.labels["driver_name"] == 'a"b\\c']
    buckets = {s.labels["le"]: s.value for s in ours if s.name.endswith("_bucket")}
    assert list(buckets) == [*map(str, (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)), "+Inf"]
    assert [buckets[bound] for bound in ("0.1", "2.5", "5", "600", "+Inf")] == [2, 2, 3, 3, 4]
    assert [s.value for s in ours if not s.name.endswith("_bucket")] == [1003.15, 4]
    assert {s.labels["grpc_status_code"] for s in family.samples} == {"OK", "DeadlineExceeded"}
    assert families["process_start_time_seconds"].samples[0].value == pytest.approx(time.time(), abs=60)


def test_statuses_are_spelled_as_go_does() -> None:
    operations = metrics.Operations()
    for status in (StatusCode.CANCELLED, StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION):
        operations.observe("d", "m", status, 0)
    page = operations.render()
    for name in ("Canceled", "Unavailable", "FailedPrecondition"):
        assert f'grpc_status_code="{name}"' in page
