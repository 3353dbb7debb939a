"""No caller can hold what all need: slots, connections, certificates in the middle of a change, a stop that waits."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
import trustme

from oneagent.common.http import server_tls
from oneagent.operator.package_server import handlers as servers
from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.fakes.provisioner import eventually
from tests.unit.operator.package_server.conftest import http

URL = f"/v1/packages/demo/{VERSION}?arch=x86_64"
LARGE = 12 << 20
"""More than the sockets and buffers between two programs on one machine hold."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.build(tmp_path_factory.mktemp("packages") / "agent.zip", filler=LARGE)


@pytest.fixture
def tenant(large: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, large)
        yield server


def connect(serving: fakes.RunningPackageServer, authority: trustme.CA | None = None) -> ssl.SSLSocket:
    """A connection with small buffers, so that what is not read here is not sent there."""
    context = ssl.create_default_context(cadata=(authority or serving.authority).cert_pem.bytes().decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.settimeout(10)
    try:
        plain.connect(("127.0.0.1", serving.endpoint.port))
        return context.wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


@contextlib.contextmanager
def idling(serving: fakes.RunningPackageServer) -> Iterator[ssl.SSLSocket]:
    """A caller whose answer has begun and who reads no more of it."""
    with connect(serving) as connection:
        headers = {"Host": "x", "Authorization": f"Bearer {fakes.token()}", "Connection": "close"}
        lines = [f"GET {URL} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert b" 200 " in connection.recv(64)
        yield connection


def rest(connection: ssl.SSLSocket) -> int:
    """Bytes that still come; an end in the middle of them is an end."""
    got = 0
    with contextlib.suppress(OSError):
        while block := connection.recv(1 << 20):
            got += len(block)
    return got


class TestACallerThatIsSlow:
    def test_is_cut_off_when_it_takes_nothing(self, tmp_path: Path, tenant: double.Tenant) -> None:
        limits = servers.RequestLimits(stall_seconds=0.5)
        with fakes.RunningPackageServer(tmp_path / "endpoint", limits=limits) as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving) as connection:
                eventually(lambda: serving.counted("package_requests_total", outcome="slow"))
                assert rest(connection) < LARGE
            assert serving.counted("package_transfers") == 0

    def test_is_cut_off_when_it_takes_too_little(self, tmp_path: Path, tenant: double.Tenant) -> None:
        limits = servers.RequestLimits(grace_seconds=0.3, least_bytes_per_second=100 << 20)
        with fakes.RunningPackageServer(tmp_path / "endpoint", limits=limits) as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving) as connection:

                def sip() -> float:
                    with contextlib.suppress(OSError):
                        connection.recv(1000)
                    return serving.counted("package_requests_total", outcome="slow")

                eventually(sip)

    def test_keeps_one_place_and_no_more(self, tmp_path: Path, tenant: double.Tenant) -> None:
        limits = servers.RequestLimits(transfers=1, wait_seconds=0.3)
        with fakes.RunningPackageServer(tmp_path / "endpoint", limits=limits) as serving, http(serving) as client:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            eventually(lambda: client.head(URL).status_code == 200)
            with idling(serving):
                answer = client.get(URL)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
                assert client.head(URL).status_code == 200
            eventually(lambda: client.get(URL).status_code == 200)

    def test_that_goes_away_is_counted_and_leaves_its_place(self, tmp_path: Path, tenant: double.Tenant) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint", limits=servers.RequestLimits(transfers=1)) as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving):
                pass
            eventually(lambda: serving.counted("package_requests_total", outcome="gone"))
            with http(serving) as client:
                assert client.get(URL).status_code == 200
            stored = serving.endpoint._cache._stored
            assert [each.pins for each in stored.values()] == [0]


class TestAConnection:
    def test_without_a_request_is_closed(self, tmp_path: Path) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint", idle_seconds=0.5) as serving:
            for beginning in (b"", b"GET /v1/packages HTTP/1.1\r\nHost: x\r\nX-Slow: "):
                with connect(serving) as connection:
                    connection.sendall(beginning)
                    began = time.monotonic()
                    assert rest(connection) == 0
                    assert time.monotonic() - began < 5

    def test_without_a_handshake_is_closed(self, tmp_path: Path) -> None:
        with (
            fakes.RunningPackageServer(tmp_path / "endpoint", idle_seconds=0.5) as serving,
            socket.create_connection(("127.0.0.1", serving.endpoint.port), timeout=5) as connection,
        ):
            assert connection.recv(1) == b""

    def test_too_many_take_the_place_of_the_oldest(self, tmp_path: Path) -> None:
        with (
            fakes.RunningPackageServer(tmp_path / "endpoint", connections=2) as serving,
            contextlib.ExitStack() as stack,
        ):
            oldest, *_ = [stack.enter_context(connect(serving)) for _ in range(3)]
            assert rest(oldest) == 0
            eventually(lambda: len(serving.endpoint._protocols.connections) == 2)  # type: ignore[union-attr]


class TestACertificate:
    def test_is_renewed_under_open_connections(self, tmp_path: Path, tenant: double.Tenant) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving) as connection:
                another = trustme.CA()
                serving.pair.renew(another, trustme.KeyType.RSA)

                def renewed() -> bool:
                    try:
                        connect(serving, another).close()
                    except ssl.SSLError:
                        return False
                    return True

                eventually(renewed)
                with pytest.raises(ssl.SSLCertVerificationError):
                    connect(serving)
                assert rest(connection) > LARGE

    def test_that_does_not_fit_its_key_leaves_the_one_before(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
            good = serving.pair.pair
            serving.pair.renew(serving.authority)
            serving.pair.pair = server_tls.Pair(serving.pair.pair.chain, good.key)
            eventually(lambda: [each for each in caplog.records if "certificate rejected" in each.getMessage()])
            time.sleep(0.3)
            connect(serving).close()
            assert len([each for each in caplog.records if "certificate rejected" in each.getMessage()]) == 1

    def test_that_can_never_be_used_is_an_error_of_the_start(self, tmp_path: Path) -> None:
        serving = fakes.RunningPackageServer(tmp_path / "endpoint")
        serving.pair.pair = server_tls.Pair(b"no", b"pem")
        with pytest.raises(server_tls.UnusableCertificateError), serving:
            pass


class TestAStop:
    def test_lets_transfers_end(self, tmp_path: Path, tenant: double.Tenant) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving) as connection, ThreadPoolExecutor(1) as threads:
                stopping = threads.submit(serving.stop)
                time.sleep(0.3)
                assert not stopping.done()
                with pytest.raises(OSError, match=r"."):
                    connect(serving)
                assert rest(connection) > LARGE
                stopping.result(10)

    def test_does_not_wait_for_ever(self, tmp_path: Path, tenant: double.Tenant) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint", drain_seconds=0.3) as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            with idling(serving):
                began = time.monotonic()
                serving.stop()
                assert time.monotonic() - began < 5

    def test_sends_away_who_waits_for_a_download(self, tmp_path: Path, tenant: double.Tenant) -> None:
        tenant.plan("package", double.Fault(bytes_per_second=12_000_000))
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
            serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
            answers: list[httpx.Response] = []
            with http(serving) as client:
                waiting = threading.Thread(target=lambda: answers.append(client.get(URL)))
                waiting.start()
                eventually(lambda: any(file.stat().st_size for file in serving.directory.glob("*.part")))
                serving.stop()
                waiting.join(10)
            assert answers[0].status_code == 503
            assert list(serving.directory.glob("*.part")), "to be resumed"
