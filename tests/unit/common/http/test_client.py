"""The one HTTP client: redirects, one deadline, a minimum rate, and an end as soon as it is cancelled."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors, exchange
from tests.fakes import raw_server
from tests.fakes.proxy import Proxy
from tests.fakes.raw_server import RawServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SETTINGS = http_client.HttpSettings(timeout_seconds=60)
HURRIED = http_client.HttpSettings(timeout_seconds=0.5)
PROMPT_SECONDS = 15.0
"""Far longer than what a busy machine takes for what ends at once, and far shorter than what waits for a timeout."""


def answer(text: bytes) -> raw_server.Script:
    return lambda connection, _request: connection.sendall(text)


def redirect(status: int, location: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} See\r\nLocation: {location}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def get(url: str, settings: http_client.HttpSettings = SETTINGS, **headers: str) -> bytes:
    with http_client.create(settings) as http:
        return http.fetch("GET", url, headers=headers, max_bytes=1 << 20)[1]


class TestARedirect:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_is_followed_without_the_token(self, status: int) -> None:
        with RawServer(answer(OK)) as target, RawServer(answer(redirect(status, f"{target.url}/there"))) as first:
            assert get(first.url, Authorization="Api-Token secret") == b"ok"
        assert b"secret" in first.requests[0]
        assert target.requests[0].startswith(b"GET /there HTTP/1.1\r\n")
        assert b"secret" not in target.requests[0]

    def test_of_the_same_host_keeps_the_token(self) -> None:
        def script(connection: socket.socket, request: bytes) -> None:
            connection.sendall(OK if request.startswith(b"GET /there ") else redirect(302, "/there"))

        with RawServer(script) as server:
            assert get(server.url, Authorization="Api-Token secret") == b"ok"
        assert b"secret" in server.requests[1]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_is_never_followed_with_a_body(self, status: int) -> None:
        with (
            RawServer(answer(OK)) as target,
            RawServer(answer(redirect(status, target.url))) as first,
            http_client.create(SETTINGS) as http,
            pytest.raises(errors.UnexpectedResponseError, match="a redirect of a POST request"),
        ):
            http.fetch("POST", first.url, json={"token": "secret"}, max_bytes=100)
        assert target.requests == []

    def test_never_leaves_tls(self) -> None:
        authority = trustme.CA()
        settings = http_client.HttpSettings(trusted_cas=authority.cert_pem.bytes().decode(), timeout_seconds=2)
        with (
            RawServer(answer(OK)) as target,
            RawServer(answer(redirect(302, target.url)), authority) as first,
            pytest.raises(errors.UnexpectedResponseError, match="redirect from https to http"),
        ):
            get(first.url, settings)
        assert target.requests == []

    @pytest.mark.parametrize(
        "location", ["ftp://127.0.0.1/", "http://user:password@127.0.0.1:9/", "http://[", "http://\x01/", "file:///x"]
    )
    def test_to_what_is_no_plain_url_is_an_error(self, location: str) -> None:
        with RawServer(answer(redirect(302, location))) as server, pytest.raises(errors.HttpError) as refused:
            get(server.url)
        assert "password" not in str(refused.value)

    def test_without_end_is_an_error_of_bounded_time(self) -> None:
        with RawServer(answer(redirect(302, "/again"))) as server:
            with pytest.raises(errors.UnexpectedResponseError, match="more than 5 redirects"):
                get(server.url)
            assert len(server.requests) == 6

    def test_is_followed_without_reading_its_body(self) -> None:
        """By the peak of another process's memory, as the kernel reports it."""
        whole = 400 << 20
        with RawServer(answer(OK)) as target:

            def script(connection: socket.socket, _request: bytes) -> None:
                head = f"HTTP/1.1 302 Found\r\nLocation: {target.url}\r\nContent-Length: {whole}\r\n\r\n"
                connection.sendall(head.encode())
                first.flood(connection, bytes(1 << 16), whole)

            with RawServer(script) as first:
                idle, peak = (int(peak_kib(url)) for url in (target.url, first.url))
                assert first.sent < 32 << 20
        assert peak - idle < 8 << 10


def peak_kib(url: str) -> str:
    """Return the largest memory of a process that requests `url`."""
    program = f"""
from oneagent.common.http import client
with client.create(client.HttpSettings(timeout_seconds=10)) as http:
    assert http.fetch("GET", {url!r}, max_bytes=10)[1] == b"ok"
"""
    program += "print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found is not None
    return found[1]


def keep_silent(_connection: socket.socket, _request: bytes) -> None:
    time.sleep(60)


def drip(first: bytes, piece: bytes = b"x") -> raw_server.Script:
    return lambda connection, _request: raw_server.drip(connection, first, piece)


SLOW: dict[str, raw_server.Script] = {
    "informational responses": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "status line": drip(b"HTTP/1.1 2"),
    "headers": drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "header lines": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
    "chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk extension": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "nothing": keep_silent,
}


@contextlib.contextmanager
def proxied(server: RawServer) -> Iterator[tuple[str, http_client.HttpSettings]]:
    """A URL whose CONNECT request to a proxy the server answers."""
    yield (
        "https://tenant.example/",
        http_client.HttpSettings(proxy=server.url, timeout_seconds=HURRIED.timeout_seconds),
    )


class TestTheDeadline:
    @pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
    def test_ends_what_comes_too_slowly(self, script: raw_server.Script) -> None:
        with RawServer(script) as server:
            began = time.monotonic()
            with pytest.raises(errors.UnreachableError) as late:
                get(server.url, HURRIED)
            assert time.monotonic() - began < PROMPT_SECONDS
        assert late.value.stage is errors.Stage.TIMEOUT

    @pytest.mark.parametrize("script", list(SLOW.values())[:4], ids=list(SLOW)[:4])
    def test_holds_for_a_proxy_too(self, script: raw_server.Script) -> None:
        with RawServer(script) as server, proxied(server) as (url, settings):
            began = time.monotonic()
            with pytest.raises(errors.UnreachableError):
                get(url, settings)
            assert time.monotonic() - began < PROMPT_SECONDS

    def test_holds_for_a_tls_handshake(self) -> None:
        with RawServer(
            lambda connection, _: raw_server.drip(connection, b"\x16\x03\x03\x3f\xff"), silent=True
        ) as server:
            began = time.monotonic()
            with pytest.raises(errors.UnreachableError):
                get(server.url.replace("http:", "https:"), HURRIED)
            assert time.monotonic() - began < PROMPT_SECONDS

    def test_is_one_for_all_redirects(self) -> None:
        """With one for each of them it would be an error that there are more than 5."""

        def script(connection: socket.socket, _request: bytes) -> None:
            time.sleep(0.4)
            connection.sendall(redirect(302, "/again"))

        with RawServer(script) as server:
            with pytest.raises(errors.UnreachableError) as late:
                get(server.url, HURRIED)
            assert len(server.requests) < 6
        assert late.value.stage is errors.Stage.TIMEOUT

    def test_is_not_waited_for_if_headers_have_no_end(self) -> None:
        def script(connection: socket.socket, _request: bytes) -> None:
            server.flood(connection, b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, 1 << 40)

        with RawServer(script) as server:
            with pytest.raises(errors.UnexpectedResponseError, match="bytes of headers"):
                get(server.url, http_client.HttpSettings(timeout_seconds=60))
            assert server.sent < 16 << 20


class TestACancelledRequest:
    @pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
    def test_ends_at_once(self, script: raw_server.Script) -> None:
        with RawServer(script) as server:
            self._cancel(lambda: get(server.url), server)

    def test_ends_while_tls_is_negotiated(self) -> None:
        with RawServer(keep_silent, silent=True) as server:
            url = server.url.replace("http:", "https:")
            self._cancel(lambda: get(url), server)

    def test_ends_while_the_server_does_not_read(self) -> None:
        """A header of 4 MiB fits into no socket's buffer."""
        with RawServer(keep_silent, silent=True) as server:
            self._cancel(lambda: get(server.url, Cookie="x" * (8 << 20)), server)

    def test_is_an_error_of_its_own_for_a_package(self, tmp_path: Path) -> None:
        head = b'HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nAccept-Ranges: bytes\r\nETag: "a"\r\n\r\n'
        with RawServer(drip(head)) as server:
            cancelled = threading.Event()
            threading.Timer(0.3, cancelled.set).start()
            began = time.monotonic()
            with pytest.raises(download.DownloadCancelledError):
                download.download(
                    download.HttpSource(server.url),
                    tmp_path / "package.zip",
                    cancelled=cancelled,
                    limits=download.DownloadLimits(connections=3),
                )
            assert time.monotonic() - began < PROMPT_SECONDS

    def _cancel(self, request: Callable[[], object], server: RawServer) -> None:
        cancelled = threading.Event()

        def cancel() -> None:
            while not server.open_connections:
                time.sleep(0.01)
            time.sleep(0.1)
            cancelled.set()

        threading.Thread(target=cancel, daemon=True).start()
        began = time.monotonic()
        with exchange.cancel_scope(cancelled), pytest.raises(errors.RequestCancelledError):
            request()
        assert time.monotonic() - began < PROMPT_SECONDS


class TestAPackage:
    RATE = exchange.MinimumRate(bytes_per_second=1000, window_seconds=0.5)

    def fetch(
        self, server: RawServer, into: Path, rate: exchange.MinimumRate, http: http_client.HttpSettings = SETTINGS
    ) -> bytes:
        limits = download.DownloadLimits(attempts=1, rate=rate)
        source = download.HttpSource(server.url, http=http)
        return download.download(source, into, cancelled=threading.Event(), limits=limits).path.read_bytes()

    @pytest.mark.parametrize("script", list(SLOW.values())[4:7], ids=list(SLOW)[4:7])
    def test_that_comes_too_slowly_is_given_up(self, tmp_path: Path, script: raw_server.Script) -> None:
        with RawServer(script) as server:
            began = time.monotonic()
            with pytest.raises(download.DownloadSourceError, match="too slow: at least 1,000 bytes a second"):
                self.fetch(server, tmp_path / "package.zip", self.RATE)
            assert time.monotonic() - began < PROMPT_SECONDS

    def test_may_take_longer_than_the_deadline(self, tmp_path: Path) -> None:
        settings = http_client.HttpSettings(timeout_seconds=2)

        def script(connection: socket.socket, _request: bytes) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n")
            for _ in range(50):
                time.sleep(0.1)
                connection.sendall(bytes(1000))

        with RawServer(script) as server:
            rate = exchange.MinimumRate(bytes_per_second=1000, window_seconds=10)
            assert self.fetch(server, tmp_path / "package.zip", rate, settings) == bytes(50000)

    def test_needs_16_kib_a_second_over_a_minute(self) -> None:
        limits = download.DownloadLimits()
        assert (limits.rate.bytes_per_second, limits.rate.window_seconds) == (16 * 1024, 60.0)


def test_a_name_that_is_not_resolved_in_time_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, finished = socket.getaddrinfo, threading.Event()

    def hang(host: str, port: int, **options: int) -> object:
        if options.get("flags"):
            return asked(host, port, **options)
        finished.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    with pytest.raises(errors.UnreachableError):
        get("http://tenant.example/", HURRIED)
    assert time.monotonic() - began < PROMPT_SECONDS
    finished.set()


def test_a_proxy_with_tls_is_used_for_a_server_with_tls() -> None:
    authority = trustme.CA()

    def tunnel(connection: socket.socket, request: bytes) -> None:
        assert request.startswith(f"CONNECT 127.0.0.1:{server.port} ".encode())
        connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port)) as beyond:
            back = threading.Thread(target=pipe, args=(beyond, connection), daemon=True)
            back.start()
            pipe(connection, beyond)

    def pipe(from_: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := from_.recv(65536):
                to.sendall(data)

    body = bytes(range(256)) * 1000
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with RawServer(answer(head + body), authority) as server, RawServer(tunnel, authority) as proxy:
        trusted = authority.cert_pem.bytes().decode()
        settings = http_client.HttpSettings(proxy=proxy.url, trusted_cas=trusted, timeout_seconds=5)
        assert get(server.url, settings) == body


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(host: str, authority: trustme.CA | None = None) -> Iterator[int]:
    """A server on an address of loopback; yields its port."""
    server = (_Server6 if ":" in host else ThreadingHTTPServer)((host, 0), _Ok)
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


class TestNoProxy:
    """Real servers and a real proxy; `PORT` is the server's."""

    @pytest.mark.parametrize(
        ("address", "name", "entry", "direct"),
        [
            ("127.0.0.1", "127.0.0.1", "", False),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1:PORT", True),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1:1", False),
            ("127.0.0.2", "127.0.0.2", "127.0.0.1", False),
            ("127.0.0.2", "127.0.0.2", "127.0.0.0/8", True),
            ("127.0.0.2", "127.0.0.2", "10.0.0.0/8", False),
            ("127.0.0.1", "localhost", "localhost", True),
            ("127.0.0.1", "localhost", "LOCALHOST:PORT", True),
            ("127.0.0.1", "localhost", "host", False),
            ("127.0.0.1", "localhost", "127.0.0.1", False),
            ("127.0.0.1", "localhost", "*", True),
            ("::1", "[::1]", "::1", True),
            ("::1", "[::1]", "[::1]:PORT", True),
            ("::1", "[::1]", "[::1]:1", False),
            ("::1", "[::1]", "::/64", True),
            ("::1", "[::1]", "fd00::/8", False),
        ],
    )
    def test_decides_which_servers_are_reached_directly(
        self, address: str, name: str, entry: str, direct: bool
    ) -> None:
        with serving(address) as port, Proxy() as proxy:
            settings = http_client.HttpSettings(
                proxy=f"http://{proxy.address}", no_proxy=("other.example", entry.replace("PORT", str(port)))
            )
            assert get(f"http://{name}:{port}/", settings) == b"ok"
            assert proxy.seen == ([] if direct else [f"GET http://{name}:{port}/"])

    @pytest.mark.parametrize(("entry", "direct"), [("fd00::/8", False), ("::1", True)])
    def test_decides_for_tls_to_an_address_of_ipv6(self, entry: str, direct: bool) -> None:
        authority = trustme.CA()
        with serving("::1", authority) as port, Proxy() as proxy:
            settings = http_client.HttpSettings(
                proxy=f"http://{proxy.address}",
                no_proxy=(entry,),
                trusted_cas=authority.cert_pem.bytes().decode(),
                timeout_seconds=5,
            )
            assert get(f"https://[::1]:{port}/", settings) == b"ok"
            assert proxy.seen == ([] if direct else [f"CONNECT [::1]:{port}"])

    def test_decides_anew_for_each_redirect(self) -> None:
        with serving("127.0.0.2") as port, RawServer(answer(redirect(302, f"http://127.0.0.2:{port}/"))) as first:
            for entry, proxied in (("127.0.0.1", f"http://127.0.0.2:{port}/"), ("127.0.0.2", f"{first.url}/")):
                with Proxy() as proxy:
                    settings = http_client.HttpSettings(proxy=f"http://{proxy.address}", no_proxy=(entry,))
                    assert get(f"{first.url}/", settings) == b"ok"
                    assert proxy.seen == [f"GET {proxied}"]
