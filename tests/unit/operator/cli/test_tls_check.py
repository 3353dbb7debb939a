"""The webhook's certificate is judged as the API server does: by a handshake with what is served."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from oneagent.operator.cli import tls_check
from oneagent.operator.cli.kubectl import Kubectl
from tests.fakes.kubectl import FakeCluster

HOST = "oneagent-webhook.dynatrace.svc"
NOW = datetime.datetime.now(datetime.UTC)


class Server:
    """Shakes hands by TLS, and hangs up."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    self._context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    continue


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path)


@pytest.fixture
def client(fake_cluster: FakeCluster) -> Kubectl:
    return Kubectl(str(fake_cluster.program), (), "dynatrace", 20)


@pytest.fixture
def server(request: pytest.FixtureRequest, authority: trustme.CA, fake_cluster: FakeCluster) -> Iterator[Server]:
    """With a certificate for the host and the end that the test names."""
    host, end = getattr(request, "param", (HOST, NOW + datetime.timedelta(hours=1)))
    begin = NOW - datetime.timedelta(days=1)
    server_process = Server(authority.issue_cert(host, not_before=begin, not_after=end, key_type=trustme.KeyType.ECDSA))
    fake_cluster.set_port("webhook-1", server_process.port)
    yield server_process
    server_process.close()


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def test_a_certificate_that_is_trusted_is_told_with_its_times(
    server: Server, authority: trustme.CA, client: Kubectl
) -> None:
    served = tls_check.probe(client, "webhook-1", pem(authority), HOST)
    assert (served.problem, served.unreachable) == ("", "")
    assert served.ends - served.not_before == pytest.approx(25 * 3600, abs=2)
    assert tls_check.is_overdue(served, NOW.timestamp())
    assert not tls_check.is_overdue(served, NOW.timestamp() - 22 * 3600)


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ((HOST, NOW - datetime.timedelta(hours=1)), "certificate has expired"),
        (("oneagent-webhook.elsewhere.svc", None), "Hostname mismatch"),
    ],
    indirect=["server"],
)
def test_a_certificate_that_is_not_good_is_told_with_the_reason(
    server: Server, authority: trustme.CA, client: Kubectl, problem: str
) -> None:
    assert problem in tls_check.probe(client, "webhook-1", pem(authority), HOST).problem


def test_a_certificate_of_another_authority_is_refused(server: Server, client: Kubectl) -> None:
    other = trustme.CA(key_type=trustme.KeyType.ECDSA)
    assert tls_check.probe(client, "webhook-1", pem(other), HOST).problem


def test_a_bundle_that_is_none_is_the_problem(client: Kubectl) -> None:
    assert "caBundle holds no certificates" in tls_check.probe(client, "webhook-1", "hello", HOST).problem


def test_a_pod_that_can_not_be_reached_leaves_it_open(authority: trustme.CA, client: Kubectl) -> None:
    served = tls_check.probe(client, "webhook-1", pem(authority), HOST)
    assert served.problem == ""
    assert "pod is not running" in served.unreachable
