"""Tokens come from servers that do as servers do."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from oneagent.common.http import client as http_client
from oneagent.common.oci import auth, hosts, pull_secret
from oneagent.common.oci import repository as oci_repository


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
