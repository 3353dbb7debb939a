"""A mutating webhook of somebody else: patches every pod it is asked about, after a while if told so."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import trustme

Patch = Callable[[dict[str, Any]], Sequence[dict[str, Any]]]
"""The operations for a pod."""


class Webhook:
    """Serves on `host` as long as it is entered; if told so, with a certificate that expired an hour ago."""

    def __init__(self, host: str, patch: Patch, *, seconds: float = 0.0, expired: bool = False) -> None:
        self._authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1) if expired else None
        self._authority.issue_cert(host, not_after=end).configure_cert(context)
        self._server = ThreadingHTTPServer((host, 0), _handler(patch, seconds))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def client_config(self) -> dict[str, str]:
        """As a webhook configuration has it."""
        host, port = self._server.server_address[:2]
        bundle = base64.b64encode(self._authority.cert_pem.bytes()).decode()
        return {"url": f"https://{host!s}:{port}/", "caBundle": bundle}


def _handler(patch: Patch, seconds: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(seconds)
            answer: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": True}
            if operations := patch(review["request"]["object"]):
                answer |= {
                    "patchType": "JSONPatch",
                    "patch": base64.b64encode(json.dumps(operations).encode()).decode(),
                }
            body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
