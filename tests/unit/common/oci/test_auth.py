"""Tokens come from servers that do as servers do."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2 as httpx
import pytest
import trustme

from oneagent.common import flags
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.oci import auth, hosts, pull_secret, reference
from oneagent.common.oci import repository as oci_repository
from tests.fakes.raw_server import RawServer


class _Handler(BaseHTTPRequestHandler):
    """A registry and its issuer of tokens, which packs what a client says that it unpacks."""

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self._answer(200, json.dumps({"token": "good"}).encode())
        elif self.headers.get("Authorization") == "Bearer good":
            self._answer(200, b"{}")
        else:
            host = self.headers["Host"]
            self._answer(401, b"", **{"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="it"'})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_token_is_read_from_an_issuer_that_packs_its_answers(host: str) -> None:
    endpoint = hosts.Endpoint(host, host, "team/agent", plain_http=True)
    login = auth.Login(endpoint, pull_secret.Credentials("agent", "open sesame"))
    with oci_repository.Repository(endpoint, login, http_client.HttpSettings()) as repository:
        assert repository.find_by_tag("1") == [b"{}"]


class TestCredentials:
    """Whom a registry's password goes to, by the requests that arrive at the address that the registry names."""

    def login(self, own: str, realm: str, *, realms: frozenset[str] = frozenset(), anonymous: bool = False) -> None:
        """React to a 401 of a registry that names this realm."""
        url = httpx.URL(own)
        host = url.netloc.decode()
        endpoint = hosts.Endpoint(host, host, "team/agent", url.scheme == "http", realms)
        login = auth.Login(endpoint, None if anonymous else pull_secret.Credentials("agent", "open sesame"))
        request = httpx.Request("GET", f"{own}/v2/team/agent/manifests/1")
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="it"'}
        settings = http_client.HttpSettings(timeout_seconds=2, skip_cert_check=True)
        with http_client.create(settings) as http:
            login.handle_unauthorized(http, httpx.Response(401, headers=challenge, request=request))

    def test_go_to_no_other_host_that_the_registry_names(self) -> None:
        with (
            issuer() as foreign,
            pytest.raises(errors.UnexpectedResponseError, match="--registry-realms lists") as told,
        ):
            self.login("https://registry.example", foreign.url)
        assert foreign.requests == []
        assert "sesame" not in str(told.value)

    @pytest.mark.parametrize("own", ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://registry.example"])
    def test_go_to_no_address_without_tls_that_is_not_listed(self, own: str) -> None:
        with issuer(tls=False) as plain, pytest.raises(errors.UnexpectedResponseError):
            self.login(own, plain.url)
        assert plain.requests == []

    @pytest.mark.parametrize("tls", [True, False])
    def test_go_to_a_host_that_is_listed(self, tls: bool) -> None:
        with issuer(tls=tls) as listed:
            self.login("https://registry.example", listed.url, realms=frozenset({f"127.0.0.1:{listed.port}"}))
        assert b"authorization: basic" in listed.requests[0].lower()

    def test_go_to_the_registry_itself(self) -> None:
        with issuer() as own:
            self.login(own.url, f"{own.url}/token")
        assert b"authorization: basic" in own.requests[0].lower()

    @pytest.mark.parametrize(
        ("own", "realm", "goes"),
        [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", True),
            ("https://registry-1.docker.io", "https://auth.docker.io.example/token", False),
            ("https://registry-1.docker.io", "http://auth.docker.io/token", False),
            ("https://registry-1.docker.io", "https://auth.docker.io:444/token", False),
            ("https://registry.example", "https://auth.docker.io/token", False),
            ("https://registry.example", "https://registry.example@foreign.example/token", False),
            ("https://registry.example", "https://foreign.example/registry.example", False),
            ("https://registry.example", "https://REGISTRY.example/token", True),
        ],
    )
    def test_go_to_docker_hubs_own_issuer_for_docker_hub_only(self, own: str, realm: str, goes: bool) -> None:
        endpoint = hosts.Endpoint(own, httpx.URL(own).host, "team/agent")
        login = auth.Login(endpoint, pull_secret.Credentials("agent", "open sesame"))
        try:
            login._parse_realm(realm)
        except errors.UnexpectedResponseError:
            assert not goes
        else:
            assert goes

    def test_go_where_the_flag_says(self) -> None:
        parser = flags.create_parser("program", "Program.")
        hosts.add_flags(flags.adder(parser))
        rules = hosts.from_flags(parser.parse_args(["--registry-realms=auth.example, 127.0.0.1:5001"]))
        image = reference.parse("registry.example/team/agent:1")
        assert isinstance(image, reference.Reference)
        assert {each.realms for each in rules.endpoints(image)} == {frozenset({"auth.example", "127.0.0.1:5001"})}
        for text in ("https://auth.example", "auth.example/token", "*.example"):
            with pytest.raises(SystemExit):
                parser.parse_args([f"--registry-realms={text}"])

    def test_are_not_needed_to_ask_another_host_without_any(self) -> None:
        with issuer() as foreign:
            self.login("https://registry.example", foreign.url, anonymous=True)
        assert b"authorization" not in foreign.requests[0].lower()

    def test_do_not_follow_a_redirect_of_the_issuer(self) -> None:
        with issuer() as foreign:
            head = f"HTTP/1.1 307 See\r\nLocation: {foreign.url}\r\nContent-Length: 0\r\n\r\n".encode()
            with RawServer(lambda connection, _: connection.sendall(head), trustme.CA()) as own:
                self.login(own.url, f"{own.url}/token")
        assert b"authorization" not in foreign.requests[0].lower()


class TestAToken:
    def fetch(self, server: RawServer, more: str = "") -> bool:
        """React to a 401 of the server itself; return whether a retry is worthwhile."""
        host = f"127.0.0.1:{server.port}"
        endpoint = hosts.Endpoint(host, host, "team/agent", plain_http=True)
        login = auth.Login(endpoint, pull_secret.Credentials("agent", "open sesame"))
        request = httpx.Request("GET", f"{server.url}/v2/team/agent/manifests/1")
        challenge = {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="it"{more}'}
        with http_client.create(http_client.HttpSettings(timeout_seconds=10)) as http:
            return login.handle_unauthorized(http, httpx.Response(401, headers=challenge, request=request))

    @pytest.mark.parametrize(
        ("more", "scope"),
        [("", "repository:team/agent:pull"), (',scope="repository:other/name:pull"', "repository:other/name:pull")],
    )
    def test_is_for_the_scope_that_the_challenge_names(self, more: str, scope: str) -> None:
        with issuer(tls=False) as server:
            assert self.fetch(server, more)
            (asked,) = server.requests
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(asked.split()[1].decode()).query)
        assert query == {"scope": [scope], "service": ["it"]}

    @pytest.mark.parametrize("status", [201, 204, 400, 401, 403, 404, 500])
    def test_is_none_unless_the_answer_is_200(self, status: int) -> None:
        body = b'{"token": "good", "errors": [{"message": "unknown account"}]}' if status != 204 else b""
        answer = b"HTTP/1.1 %d Odd\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        with (
            RawServer(lambda connection, _: connection.sendall(answer)) as server,
            pytest.raises(errors.HttpError, match=f"answered {status}") as failed,
        ):
            self.fetch(server)
        assert ("unknown account" in str(failed.value)) == (status != 204)
        assert ("check the credentials" in str(failed.value)) == (status in (401, 403))

    def test_that_is_to_come_later_is_asked_for_later(self) -> None:
        answer = b"HTTP/1.1 429 Later\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n"
        with (
            RawServer(lambda connection, _: connection.sendall(answer)) as server,
            pytest.raises(errors.RateLimitedError) as failed,
        ):
            self.fetch(server)
        assert failed.value.retry_after == 17


def issuer(*, tls: bool = True) -> RawServer:
    """A server that issues a token to everybody."""
    body = b'{"token": "good"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    return RawServer(lambda connection, _: connection.sendall(answer), trustme.CA() if tls else None)
