"""A forward proxy: `CONNECT` for TLS, absolute URLs for the rest. It remembers whom it was asked for."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Proxy:
    """Listens while in use as a context manager; `credentials` as `user:password`."""

    def __init__(self, credentials: str = "", *, host: str = "127.0.0.1") -> None:
        self.seen: list[str] = []
        """`CONNECT host:port` or `GET http://…`, without the query."""
        self.clients = set[str]()
        """The addresses of those that it let through."""
        self._host = host
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode() if credentials else ""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                if not proxy._admits(self):
                    return
                proxy.seen.append(f"CONNECT {self.path}")
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as upstream:
                    self.send_response(200, "established")
                    self.end_headers()
                    back = threading.Thread(target=_pump, args=(upstream, self.connection))
                    back.start()
                    _pump(self.connection, upstream)
                    back.join()
                self.close_connection = True

            def do_GET(self) -> None:
                self._forward("GET")

            def do_POST(self) -> None:
                self._forward("POST", self.rfile.read(int(self.headers["Content-Length"])))

            def _forward(self, method: str, content: bytes | None = None) -> None:
                if not proxy._admits(self):
                    return
                proxy.seen.append(f"{method} {self.path.partition('?')[0]}")
                url = urllib.parse.urlsplit(self.path)
                upstream = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=5)
                headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
                upstream.request(method, f"{url.path}?{url.query}", content, headers)
                answer = upstream.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                upstream.close()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def address(self) -> str:
        return f"{self._host}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _admits(self, handler: BaseHTTPRequestHandler) -> bool:
        if handler.headers.get("Proxy-Authorization", "") == self._expected:
            self.clients.add(handler.client_address[0])
            return True
        handler.send_response(407)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return False


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
