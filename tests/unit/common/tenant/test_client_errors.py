"""What goes wrong on the way to a tenant, and that it is said in a way that helps."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import trustme

from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.tenant import client as tenant_client
from tests.fakes import tenant as double
from tests.fakes.proxy import Proxy
from tests.fakes.tenant import Fault

VERSION = "1.277.0.20230914-094321"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as running:
        released(running, tmp_path)
        yield running


@pytest.fixture
def tls_server(tmp_path: Path, authority: trustme.CA) -> Iterator[double.Tenant]:
    with double.Tenant(tls=authority) as running:
        released(running, tmp_path)
        yield running


def released(server: double.Tenant, folder: Path) -> None:
    (folder / "package").write_bytes(b"zip")
    server.release(VERSION, folder / "package")


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def latest(server: double.Tenant, http: http_client.HttpSettings | None = None, token: str = "") -> str:
    access = tenant_client.TenantAccess(
        server.api_url, token or server.token, http=http or http_client.HttpSettings(timeout_seconds=5)
    )
    with tenant_client.Tenant(access) as client:
        return client.latest_version()


def test_a_refused_token_is_named_with_what_it_needs(server: double.Tenant) -> None:
    with pytest.raises(
        errors.HttpStatusError, match=r"answered 403: Token is missing.*apiToken.*InstallerDownload"
    ) as no:
        latest(server, token="dt0c01.wrong")
    assert (no.value.status, no.value.is_transient) == (403, False)
    assert "dt0c01" not in str(no.value)


def test_a_server_that_echoes_the_token_does_not_bring_it_into_our_log(server: double.Tenant) -> None:
    body = f'{{"error": {{"code": 400, "message": "bad\\n token {server.token}"}}}}'.encode()
    server.plan("latest", Fault(status=400, body=body))
    with pytest.raises(errors.HttpStatusError, match=r"bad token \*\*\*"):
        latest(server)


@pytest.mark.parametrize("status", [429, 503])
def test_a_tenant_that_is_busy_says_when_to_come_back(server: double.Tenant, status: int) -> None:
    server.plan("latest", Fault(status=status, headers={"Retry-After": "120"}))
    with pytest.raises(errors.RateLimitedError) as throttled:
        latest(server)
    assert (throttled.value.retry_after, throttled.value.status, throttled.value.is_transient) == (120, status, True)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    date = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    assert errors.parse_retry_after(" 17 ") == 17
    assert errors.parse_retry_after(date, now.timestamp()) == 90
    assert errors.parse_retry_after(date, now.timestamp() + 1000) == 0
    for garbage in ("", "soon", "-1", "1e9", "9" * 400, "Thu, 99 Jan 2026 99:00:00 GMT"):
        assert errors.parse_retry_after(garbage) is None


@pytest.mark.parametrize(("status", "passing"), [(404, False), (500, True), (502, True), (204, False)])
def test_only_what_may_pass_is_worth_another_try(server: double.Tenant, status: int, passing: bool) -> None:
    server.plan("latest", Fault(status=status, body=b"" if status == 204 else None))
    with pytest.raises(errors.HttpError, match=f"answered {status}") as fault:
        latest(server)
    assert fault.value.is_transient is passing


class TestUnreachable:
    def reach(self, url: str, http: http_client.HttpSettings | None = None) -> errors.UnreachableError:
        access = tenant_client.TenantAccess(url, "token", http=http or http_client.HttpSettings(timeout_seconds=0.3))
        with tenant_client.Tenant(access) as client, pytest.raises(errors.UnreachableError) as unreachable:
            client.latest_version()
        return unreachable.value

    def test_because_of_the_name(self) -> None:
        fault = self.reach("http://no-such-tenant.invalid/api", http_client.HttpSettings(timeout_seconds=5))
        assert fault.stage is errors.Stage.NAME
        assert "no-such-tenant.invalid" in str(fault)

    def test_because_nobody_listens(self) -> None:
        fault = self.reach("http://127.0.0.1:9/api")
        assert fault.stage is errors.Stage.CONNECT
        assert "Connection refused" in str(fault)

    def test_because_no_answer_comes(self, server: double.Tenant) -> None:
        server.plan("latest", Fault(stall_after=0))
        server.token = "token"
        fault = self.reach(server.api_url)
        assert fault.stage is errors.Stage.TIMEOUT
        assert "did not answer in time" in str(fault)

    def test_because_the_connection_breaks(self, server: double.Tenant) -> None:
        server.plan("latest", Fault(cut_after=5, status=200, body=b'{"latestAgentVersion": "1"}'))
        with pytest.raises(errors.UnreachableError) as unreachable:
            latest(server)
        assert unreachable.value.stage is errors.Stage.BROKEN

    def test_because_its_certificate_is_unknown(self, tls_server: double.Tenant) -> None:
        fault = self.reach(tls_server.api_url, http_client.HttpSettings(timeout_seconds=5))
        assert fault.stage is errors.Stage.TLS
        assert "trustedCAs" in str(fault)
        assert not fault.is_transient

    def test_because_it_does_not_speak_tls(self, server: double.Tenant) -> None:
        url = server.api_url.replace("http:", "https:")
        assert self.reach(url, http_client.HttpSettings(timeout_seconds=5)).stage is errors.Stage.TLS

    def test_because_the_proxy_refuses(self, tls_server: double.Tenant) -> None:
        with Proxy("user:right") as proxy:
            http = http_client.HttpSettings(proxy=f"http://user:wrong@{proxy.address}", timeout_seconds=5)
            fault = self.reach(tls_server.api_url, http)
        assert fault.stage is errors.Stage.PROXY
        assert "407" in str(fault)
        assert "wrong" not in str(fault)


class TestTls:
    def test_with_a_certificate_of_ones_own_is_trusted_if_named(
        self, tls_server: double.Tenant, authority: trustme.CA
    ) -> None:
        assert latest(tls_server, http_client.HttpSettings(trusted_cas=pem(authority))) == VERSION

    def test_with_another_authority_is_refused(self, tls_server: double.Tenant) -> None:
        with pytest.raises(errors.UnreachableError, match="not trusted"):
            latest(tls_server, http_client.HttpSettings(trusted_cas=pem(trustme.CA())))

    def test_can_go_unchecked(self, tls_server: double.Tenant) -> None:
        assert latest(tls_server, http_client.HttpSettings(skip_cert_check=True)) == VERSION

    def test_needs_certificates_that_are_some(self, tls_server: double.Tenant) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match="trustedCAs"):
            latest(tls_server, http_client.HttpSettings(trusted_cas="-----BEGIN NONSENSE"))

    def test_text_beside_the_certificates_of_a_bundle_has_no_effect(
        self, tls_server: double.Tenant, authority: trustme.CA
    ) -> None:
        bundle = f"\ufeff# Főtanúsítvány, Certicámara S.A.\n{pem(trustme.CA())}# ©\r\n{pem(authority)}# 日本\n"
        assert latest(tls_server, http_client.HttpSettings(trusted_cas=bundle)) == VERSION

    def test_is_never_left_by_a_redirect(
        self, tls_server: double.Tenant, server: double.Tenant, authority: trustme.CA
    ) -> None:
        tls_server.plan("latest", Fault(status=302, headers={"Location": server.api_url}))
        with pytest.raises(errors.UnexpectedResponseError, match="redirect from https to http"):
            latest(tls_server, http_client.HttpSettings(trusted_cas=pem(authority)))
        assert server.requests == []


def test_a_redirect_to_another_host_does_not_take_the_token_along(server: double.Tenant, tmp_path: Path) -> None:
    with double.Tenant(host="127.0.0.2") as other:
        server.plan("latest", Fault(status=302, headers={"Location": f"{other.api_url}/elsewhere"}))
        with pytest.raises(errors.HttpStatusError, match=r"127\.0\.0\.2.*401"):
            latest(server)
        assert "Authorization" not in other.requests[0].headers


class TestProxy:
    def test_carries_plain_requests(self, server: double.Tenant) -> None:
        with Proxy("user:pa ss") as proxy:
            http = http_client.HttpSettings(proxy=f"http://user:pa%20ss@{proxy.address}", timeout_seconds=5)
            assert latest(server, http) == VERSION
        assert proxy.seen == [f"GET {server.api_url}/v1/deployment/installer/agent/unix/paas/latest/metainfo"]

    def test_carries_tls_without_seeing_into_it(self, tls_server: double.Tenant, authority: trustme.CA) -> None:
        with Proxy() as proxy:
            http = http_client.HttpSettings(
                proxy=f"http://{proxy.address}", trusted_cas=pem(authority), timeout_seconds=5
            )
            assert latest(tls_server, http) == VERSION
        assert proxy.seen == [f"CONNECT 127.0.0.1:{tls_server.port}"]

    def test_is_left_out_for_the_hosts_that_no_proxy_names(self, server: double.Tenant) -> None:
        with Proxy() as proxy:
            http = http_client.HttpSettings(proxy=f"http://{proxy.address}", no_proxy=("127.0.0.0/8",))
            assert latest(server, http) == VERSION
        assert proxy.seen == []

    def test_is_not_taken_from_the_environment(self, server: double.Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert latest(server) == VERSION

    @pytest.mark.parametrize(
        ("host", "entry", "direct"),  # A port that is not named here is 443.
        [
            ("a.example.com", "example.com", True),
            ("A.Example.com", "EXAMPLE.COM", True),
            ("example.com", "example.com", True),
            ("a.example.com", ".example.com", True),
            ("a.example.com", "*.example.com", True),
            ("example.com", ".example.com", False),
            ("notexample.com", "example.com", False),
            ("a.example.com", " example.com:443 ", True),
            ("a.example.com", "example.com:8443", False),
            ("a.example.com", "*.example.com:443", True),
            ("a.example.com", ".example.com:8443", False),
            ("a.example.com", "example.com:https", False),
            ("anything", "*", True),
            ("10.1.2.3", "10.0.0.0/8", True),
            ("11.1.2.3", "10.0.0.0/8", False),
            ("10.1.2.3", "10.1.2.3", True),
            ("fd00::1", "fd00::/8", True),
            ("fe00::1", "fd00::/8", False),
            ("fd00::1", "fd00::1", True),
            ("fd00::1", "[fd00::1]", True),
            ("fd00::1", "[fd00::1]:443", True),
            ("fd00::1", "[FD00:0::1]:443", True),
            ("fd00::1", "[fd00::1]:8443", False),
            ("fd00::2", "[fd00::1]:443", False),
            ("10.1.2.3", "10.1.2.3:443", True),
            ("10.1.2.3", "10.1.2.3:8443", False),
            ("a.example.com", "[fd00::1]:443", False),
            ("fd00::1", "[fd00::1", False),
            ("a.example.com", "10.0.0.0/8", False),
            ("a.example.com", "", False),
            ("a.example.com", ".", False),
        ],
    )
    def test_no_proxy_is_read_as_everybody_reads_it(self, host: str, entry: str, direct: bool) -> None:
        assert http_client.bypasses_proxy(host, 443, (entry,)) is direct


def test_a_place_shows_no_user_and_no_query() -> None:
    assert errors.redact_url("https://u:hunter2@h.example:8443/a/b?token=hunter2#x") == "https://h.example:8443/a/b"
    assert "hunter2" not in errors.redact_url("http://u:hunter2@h:port")


def test_an_unknown_error_of_the_library_is_still_a_fault() -> None:
    fault = errors.from_transport_error(httpx.DecodingError("odd"), "https://h.example/a")
    assert isinstance(fault, errors.UnreachableError)
