"""A collector, as far as the demonstration needs one: it receives traces by OTLP over HTTPS on loopback.

Its certificate is by a CA that no system trusts, as inside many a company.

Requests are decoded by OpenTelemetry's own `opentelemetry-proto`, which is in the package of agents.
"""

from __future__ import annotations

import http.server
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Span:
    trace: str
    id: str
    parent: str
    name: str
    kind: str
    """`server`, `client`, …"""
    start_ns: int
    end_ns: int
    resource: dict[str, str]
    authorization: str
    """The header of the request that brought it"""


@dataclass
class Node:
    """A span and those that it caused."""

    span: Span
    children: list[Node] = field(default_factory=list)

    def walk(self, before: str = "", follows: str = "") -> Iterator[tuple[str, Span]]:
        """Yield each span with the lines that lead to it."""
        yield before, self.span
        for child in self.children:
            is_last = child is self.children[-1]
            yield from child.walk(follows + ("└─ " if is_last else "├─ "), follows + ("   " if is_last else "│  "))


class Collector:
    """Listens from the start until it is closed."""

    def __init__(self, packages: Path) -> None:
        sys.path.append(str(packages))
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # pyright: ignore[reportMissingImports]

        self._spans: list[Span] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = b"".join(self._parts())
                if self.path == "/v1/traces":
                    request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                    collector.add(request, self.headers.get("Authorization", ""))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _parts(self) -> Iterator[bytes]:
                """Yield the body, which Node.js sends in chunks (RFC 9112, 7.1)."""
                if self.headers.get("Transfer-Encoding") != "chunked":
                    yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    return
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, format: str, *args: Any) -> None:
                """Log no requests: the demonstration shows them."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        # Each connection's own thread shakes hands: a client that does not must not hold up the others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.authority = authority.cert_pem.bytes().decode()
        """The CA's certificate, in PEM form"""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"https://127.0.0.1:{self._server.server_port}"

    def add(self, request: Any, authorization: str) -> None:
        """Take the spans of a request."""
        for group in request.resource_spans:
            resource = {item.key: item.value.string_value for item in group.resource.attributes}
            spans = [span for scope in group.scope_spans for span in scope.spans]
            found = [
                Span(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    resource=resource,
                    authorization=authorization,
                )
                for span in spans
            ]
            with self._lock:
                self._spans += found

    def traces(self) -> dict[str, list[Span]]:
        """Return what has come so far, by trace."""
        with self._lock:
            spans = list(self._spans)
        found: dict[str, list[Span]] = {}
        for span in spans:
            found.setdefault(span.trace, []).append(span)
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def tree(spans: list[Span]) -> list[Node]:
    """Return the spans without a parent among these, each with all below it, in the order of time."""
    nodes = {span.id: Node(span) for span in sorted(spans, key=lambda span: span.start_ns)}
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent)
        (parent.children if parent else roots).append(node)
    return roots
