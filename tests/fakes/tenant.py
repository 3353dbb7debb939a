"""The deployment API of a Dynatrace tenant: a real HTTP(S) server with the documented responses.

Tests release versions, plan faults (`plan`) and inspect `requests`. The demo runs it as a process; each zip that
appears in the directory, by a rename and thus complete, is a released version:

    python -m tests.fakes.tenant --port 0 --packages DIR --port-file FILE
"""

from __future__ import annotations

import argparse
import collections
import datetime
import email.utils
import hashlib
import json
import re
import signal
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import trustme

TOKEN = "dt0c01.DOUBLE.SECRET"
TENANT = "abc12345"
_AGENT = "/api/v1/deployment/installer/agent"
_IMAGES = "/api/v2/fleetManagement/components/containerImages"
_PIECE = 64 * 1024

Endpoint = Literal["latest", "versions", "connection", "config", "package", "scopes", "images"]


@dataclass(frozen=True)
class Fault:
    """The faults of one response."""

    status: int = 0
    """Respond with this status and an error body."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers to add or to replace; an empty value removes the header."""
    body: bytes | None = None
    """Replacement of the body."""
    cut_after: int | None = None
    """Close the connection after this number of body bytes."""
    stall_after: int | None = None
    """Stop sending after this number of body bytes, until the tenant closes."""
    flip: int | None = None
    """Corrupt the byte at this offset of the file."""
    bytes_per_second: int = 0
    ignore_range: bool = False


@dataclass(frozen=True)
class Request:
    endpoint: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass(frozen=True)
class _Package:
    path: Path
    size: int
    etag: str
    modified: str


class Tenant:
    """One tenant, which serves inside its context."""

    def __init__(
        self,
        *,
        tls: trustme.CA | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        packages: Path | None = None,
        token: str = TOKEN,
        tenant: str = TENANT,
        requests_per_minute: int = 0,
    ) -> None:
        """More than `requests_per_minute` get 429; 0: no limit."""
        self.token, self.tenant = token, tenant
        self.tenant_token = "tenant-token-of-the-double"
        self.endpoints = ["https://ag1.example/communication", "https://ag2.example/communication"]
        self.scopes = ["InstallerDownload"]
        self.revision = 1
        self.images: dict[str, str] = {}
        """In a public registry, by component."""
        self.properties: list[dict[str, str]] = []
        self.requests: list[Request] = []
        self.refused: list[float] = []
        """Times of the requests above the limit, on the monotonic clock."""
        self._per_minute = requests_per_minute
        self._allowed = collections.deque[float](maxlen=requests_per_minute or 1)
        self.bytes_per_second = 0
        self._directory = packages
        self._released: dict[str, _Package] = {}
        self._faults: dict[str, collections.deque[Fault]] = collections.defaultdict(collections.deque)
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server((host, port), _handler(self))
        self._host, self._scheme = host, "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.issue_cert(*{"localhost", "127.0.0.1", host}).configure_cert(context)
            # The handshake runs in the request's thread, not in the thread that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def api_url(self) -> str:
        return f"{self._scheme}://{self._host}:{self.port}/api"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self, version: str, package: Path) -> None:
        """Make a version available for download; the highest version is the latest."""
        with package.open("rb") as file:
            size, etag = package.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
        modified = email.utils.format_datetime(
            datetime.datetime.fromtimestamp(int(package.stat().st_mtime), datetime.UTC), usegmt=True
        )
        with self._lock:
            self._released[version] = _Package(package, size, f'"{etag}"', modified)

    def withdraw(self, version: str) -> None:
        """Make a version unavailable."""
        with self._lock:
            del self._released[version]

    def mend(self, endpoint: Endpoint) -> None:
        """Forget the faults that are planned for an endpoint."""
        with self._lock:
            self._faults[endpoint].clear()

    def plan(self, endpoint: Endpoint, *faults: Fault) -> None:
        """Add faults to the next responses of an endpoint, one fault each."""
        self._faults[endpoint].extend(faults)

    def clear_faults(self) -> None:
        self._faults.clear()

    def count(self, endpoint: Endpoint) -> int:
        """Return the number of requests to an endpoint."""
        return sum(request.endpoint == endpoint for request in self.requests)

    def record(self, request: Request) -> Fault:
        with self._lock:
            self.requests.append(request)
            if self._per_minute and self._is_above_limit(time.monotonic()):
                return Fault(429, {"Retry-After": "60"})
            planned = self._faults[request.endpoint]
            return planned.popleft() if planned else Fault()

    def _is_above_limit(self, now: float) -> bool:
        if len(self._allowed) == self._per_minute and now - self._allowed[0] < 60.0:
            self.refused.append(now)
            return True
        self._allowed.append(now)
        return False

    def package(self, version: str) -> _Package | None:
        self._scan_directory()
        return self._released.get(version)

    def versions(self) -> list[str]:
        self._scan_directory()
        return sorted(self._released, key=lambda text: [int(part) for part in re.findall(r"\d+", text)])

    def _scan_directory(self) -> None:
        for path in sorted(self._directory.glob("*.zip")) if self._directory else ():
            if path.stem not in self._released:
                self.release(path.stem, path)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect early: tests do so on purpose."""


def _handler(tenant: Tenant) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            endpoint, argument = _endpoint(parts.path)
            query = urllib.parse.parse_qs(parts.query)
            fault = tenant.record(Request(endpoint, parts.path, query, dict(self.headers.items())))
            scheme, _, given = self.headers.get("Authorization", "").partition(" ")
            if fault.status >= 400:
                self._error(fault.status, "planned by the test", fault)
            elif scheme != "Api-Token" or not given:
                self._error(401, "Missing authorization parameter.", fault)
            elif given != tenant.token:
                self._error(403, "Token is missing required scope: InstallerDownload", fault)
            elif endpoint == "package":
                self._package(argument, query, fault)
            else:
                self._api(endpoint, query, fault)

        def do_POST(self) -> None:
            """Return the scopes of the token in the body."""
            parts = urllib.parse.urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            fault = tenant.record(Request("scopes", parts.path, {}, dict(self.headers.items())))
            if fault.status >= 400:
                self._error(fault.status, "planned by the test", fault)
            elif parts.path.removeprefix("/api") != "/v2/apiTokens/lookup":
                self._error(404, "HTTP 404 Not Found", fault)
            elif json.loads(body).get("token") != tenant.token:
                self._error(401, "Token Authentication failed", fault)
            else:
                self._json({"enabled": True, "scopes": tenant.scopes}, fault)

        def _api(self, endpoint: str, query: dict[str, list[str]], fault: Fault) -> None:
            if endpoint == "latest" and (versions := tenant.versions()):
                self._json({"latestAgentVersion": versions[-1]}, fault)
            elif endpoint == "versions":
                self._json({"availableVersions": tenant.versions()}, fault)
            elif endpoint == "connection":
                joined = ";".join(tenant.endpoints)
                answer = {"tenantUUID": tenant.tenant, "tenantToken": tenant.tenant_token}
                lists = {"communicationEndpoints": tenant.endpoints}
                self._json({**answer, **lists, "formattedCommunicationEndpoints": joined}, fault)
            elif endpoint == "images" and tenant.images:
                images = [{"type": kind, "imageUri": image} for kind, image in tenant.images.items()]
                host = query.get("registry", [""])[0]
                self._json({"components": [one for one in images if one["imageUri"].startswith(host)]}, fault)
            elif endpoint == "config" and query.get("revision") == [str(tenant.revision)]:
                self._answer(304, {}, b"", fault)
            elif endpoint == "config":
                self._json({"revision": tenant.revision, "properties": tenant.properties}, fault)
            else:
                self._error(404, "HTTP 404 Not Found", fault)

        def _package(self, version: str, query: dict[str, list[str]], fault: Fault) -> None:
            if query.get("bitness") != ["64"] or query.get("arch", [""])[0] not in (
                "x86",
                "arm",
                "ppcle",
                "s390",
            ):
                self._error(400, "Unknown arch or bitness", fault)
                return
            package = tenant.package(version)
            if package is None:
                self._error(404, f"Version {version} not found", fault)
                return
            first, last, status = 0, package.size - 1, 200
            headers = {
                "Content-Type": "application/octet-stream",
                "ETag": package.etag,
                "Last-Modified": package.modified,
                "Accept-Ranges": "bytes",
            }
            requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", package.etag) in (package.etag, package.modified)
            if requested and same and not fault.ignore_range:
                first, last, status = int(requested[1]), min(int(requested[2] or last), last), 206
                headers["Content-Range"] = f"bytes {first}-{last}/{package.size}"
                if first >= package.size:
                    self._error(416, "beyond the end", Fault(headers={"Content-Range": f"bytes */{package.size}"}))
                    return
            with package.path.open("rb") as file:
                file.seek(first)
                self._head(status, {**headers, "Content-Length": str(last + 1 - first)}, fault)
                self._send(iter(lambda: file.read(min(_PIECE, last + 1 - file.tell())), b""), first, fault)

        def _json(self, answer: Any, fault: Fault) -> None:
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(answer).encode(), fault)

        def _error(self, status: int, message: str, fault: Fault) -> None:
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            self._answer(status, {"Content-Type": "application/json"}, body, fault)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
            body = body if fault.body is None else fault.body
            self._head(status, {**headers, "Content-Length": str(len(body))}, fault)
            self._send(iter([body]), 0, fault)

        def _head(self, status: int, headers: dict[str, str], fault: Fault) -> None:
            self.send_response(fault.status or status)
            for name, value in {**headers, **fault.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()

        def _send(self, pieces: Any, offset: int, fault: Fault) -> None:
            """Send the body, with the fault's effects."""
            rate = fault.bytes_per_second or tenant.bytes_per_second
            limits = [limit for limit in (fault.cut_after, fault.stall_after) if limit is not None]
            left = min(limits, default=None)
            for right in pieces:
                piece = bytearray(right)
                if fault.flip is not None and offset <= fault.flip < offset + len(piece):
                    piece[fault.flip - offset] ^= 0xFF
                offset += len(piece)
                self.wfile.write(piece if left is None else piece[:left])
                left = None if left is None else left - len(piece)
                if left is not None and left <= 0:
                    self._break(fault)
                    return
                if rate:
                    time.sleep(len(piece) / rate)

        def _break(self, fault: Fault) -> None:
            self.wfile.flush()
            if fault.stall_after is not None:
                tenant.closing.wait(30)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _endpoint(path: str) -> tuple[str, str]:
    """Return the API call of a path, and the version in it."""
    fixed = {
        "/unix/paas/latest/metainfo": "latest",
        "/connectioninfo": "connection",
        "/processmoduleconfig": "config",
    }
    if path == _IMAGES:
        return "images", ""
    rest = path.removeprefix(_AGENT)
    if match := re.fullmatch(r"/unix/paas/version/([^/]+)", rest):
        return "package", urllib.parse.unquote(match[1])
    return ("versions" if rest == "/versions/unix/paas" else fixed.get(rest, "unknown")), ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.tenant", description="Serve a fake tenant.")
    parser.add_argument("--port", type=int, default=0, help="port; 0: a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--packages", type=Path, required=True, help="directory of <version>.zip files")
    parser.add_argument("--port-file", type=Path, help="file to write the port to, once it listens")
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--tenant", default=TENANT, help="the tenant's UUID")
    parser.add_argument("--bytes-per-second", type=int, default=0, help="rate limit of each download; 0: none")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Tenant(
        host=given.host, port=given.port, packages=given.packages, token=given.token, tenant=given.tenant
    ) as tenant:
        tenant.bytes_per_second = given.bytes_per_second
        if given.port_file:
            unfinished = given.port_file.with_suffix(".new")
            unfinished.write_text(str(tenant.port))
            unfinished.rename(given.port_file)
        print(tenant.api_url, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
