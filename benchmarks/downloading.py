"""A large file over several connections, against the same file over one: from three kinds of servers on loopback.

    fast       sends as fast as loopback and this machine allow
    distant    the same, with 30 ms before each response
    limited    20 MiB/s for each connection and 30 ms before each response, as registries, CDNs and S3 do

The server is a process of its own. Runs are paired, one after the other in turn, so that noise meets both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.results import Result
from oneagent.common.http import download
from tests.fakes import ports

CONNECTIONS: Final = 3
_PAIRS: Final = 5
_PIECE: Final = 256 << 10
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Kind:
    """A server's behaviour; a rate of 0 is unlimited."""

    name: str
    size: int
    latency_seconds: float = 0.0
    bytes_per_second: int = 0


KINDS: Final = (
    Kind("fast", 512 << 20),
    Kind("distant", 512 << 20, latency_seconds=0.03),
    Kind("limited", 64 << 20, latency_seconds=0.03, bytes_per_second=20 << 20),
)


def run() -> list[Result]:
    measured: list[Result] = []
    with tempfile.TemporaryDirectory() as directory:
        for kind in KINDS:
            with _serving(kind) as url:
                one, several = _pairs(url, Path(directory))
            measured += [
                results.shown(f"download_{kind.name}_one_connection_mib_s", kind.size / one / (1 << 20), "MiB/s"),
                results.shown(
                    f"download_{kind.name}_{CONNECTIONS}_connections_mib_s", kind.size / several / (1 << 20), "MiB/s"
                ),
                results.shown(f"download_{kind.name}_gain", one / several, "times"),
            ]
    return measured


def _pairs(url: str, directory: Path) -> tuple[float, float]:
    """Median seconds over one connection, and over several."""
    one: list[float] = []
    several: list[float] = []
    _seconds(url, directory, 1)  # opens the file's pages and the interpreter's
    for number in range(_PAIRS):
        order = ((1, one), (CONNECTIONS, several))
        for connections, samples in order if number % 2 == 0 else reversed(order):
            samples.append(_seconds(url, directory, connections))
    return statistics.median(one), statistics.median(several)


def _seconds(url: str, directory: Path, connections: int) -> float:
    into = directory / "package"
    found = download.download(
        download.HttpSource(url),
        into,
        cancelled=threading.Event(),
        limits=download.DownloadLimits(connections=connections),
    )
    into.unlink()
    return found.seconds


@contextlib.contextmanager
def _serving(kind: Kind) -> Iterator[str]:
    port = ports.free()
    url = f"http://127.0.0.1:{port}/package"
    with subprocess.Popen([sys.executable, "-m", "benchmarks.downloading", str(port), kind.name]) as process:
        try:
            _wait_until_open(url)
            yield url
        finally:
            process.terminate()


def _wait_until_open(url: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kind: Kind
    file: int

    def do_HEAD(self) -> None:
        self._send_headers(200, 0, self.kind.size)

    def do_GET(self) -> None:
        time.sleep(self.kind.latency_seconds)
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        stop = int(match[2]) + 1 if match and match[2] else self.kind.size
        self._send_headers(206 if match else 200, start, stop)
        with contextlib.suppress(ConnectionError):
            self._send_body(start, stop)

    def _send_headers(self, status: int, start: int, stop: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{self.kind.size}")
        self.end_headers()

    def _send_body(self, start: int, stop: int) -> None:
        began, offset = time.monotonic(), start
        while offset < stop:
            offset += os.sendfile(self.connection.fileno(), self.file, offset, min(_PIECE, stop - offset))
            if rate := self.kind.bytes_per_second:
                time.sleep(max(0.0, began + (offset - start) / rate - time.monotonic()))

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def _serve(port: int, kind: Kind) -> None:
    with tempfile.TemporaryFile() as file:
        for _ in range(kind.size // (1 << 20)):
            file.write(os.urandom(1 << 20))
        file.flush()
        _Handler.kind, _Handler.file = kind, file.fileno()
        http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloading", description="Serve one file.")
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=[kind.name for kind in KINDS])
    given = parser.parse_args()
    _serve(given.port, next(kind for kind in KINDS if kind.name == given.kind))
