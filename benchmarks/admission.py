"""What the webhook costs: the real process, asked about a 10 KB pod as API servers ask, with a large cluster in memory.

What a core bears is told by the process' own CPU time for each request, which other programs on the machine don't
change. The delay is measured at a steady 200 requests a second, from the time at which each was due.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import trustme

from benchmarks import results
from benchmarks.results import Result
from oneagent.common.dynakube.api.versions import NEWEST
from oneagent.common.dynakube.namespace_mapping import LABEL
from tests.fakes import kube_api, ports

_NAMESPACES: Final = 5000
_POD_BYTES: Final = 10_000
_CONNECTIONS: Final = 8
_REQUESTS: Final = 4000
_STEADY_PER_SECOND: Final = 200
_STEADY_SECONDS: Final = 5
_PATIENCE_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 3.0


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place, kube_api.KubeApi() as api:
        authority = trustme.CA()
        _fill(api, authority)
        with _webhook(api, Path(place)) as (process, port):
            time.sleep(_IDLE_SECONDS)
            idle = _resident_mib(process)
            load = _Load(port, authority)
            asyncio.run(load.burst(_REQUESTS // 4))
            before = _cpu_seconds(process)
            wall = asyncio.run(load.burst(_REQUESTS))
            cpu = _cpu_seconds(process) - before
            delays = asyncio.run(load.steady())
            busy = _resident_mib(process)
    return [
        results.at_most("inject_cpu_us", cpu / _REQUESTS * 1e6, "µs", 1000),
        results.shown("inject_per_core", _REQUESTS / cpu, "1/s"),
        results.shown("inject_per_second", _REQUESTS / wall, "1/s"),
        results.at_most("inject_p99_ms", results.quantile(delays, 99) * 1e3, "ms", 10),
        results.shown("inject_p50_ms", results.quantile(delays, 50) * 1e3, "ms"),
        results.at_most("rss_webhook_mib", idle, "MiB", 80),
        results.shown("rss_webhook_busy_mib", busy, "MiB"),
    ]


def _fill(api: kube_api.KubeApi, authority: trustme.CA) -> None:
    for number in range(_NAMESPACES):
        name = f"team-{number}"
        labels = {"kubernetes.io/metadata.name": name, "team": f"{number % 50}", LABEL: "demo"}
        api.put("namespaces", {"metadata": {"name": name, "uid": f"uid-{number}", "labels": labels}})
    status = {
        "oneAgent": {"connectionInfoStatus": {"tenantUUID": "abc12345", "endpoints": "https://a.b/communication"}},
        "codeModules": {"version": "1.299.0.20240801-120000"},
    }
    spec = {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {"cloudNativeFullStack": {}}}
    kube = {"kind": "DynaKube", "metadata": {"name": "demo", "uid": "1"}, "spec": spec, "status": status}
    api.put("dynakubes", {"apiVersion": f"{kube_api.GROUP}/{NEWEST}", **kube})
    api.put("csidrivers", {"metadata": {"name": "csi.oneagent.dynatrace.com"}})
    daemonset = {"desiredNumberScheduled": 1, "numberReady": 1}
    api.put("daemonsets", {"metadata": {"name": "oneagent-csi-driver"}, "status": daemonset})
    leaf = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    content = {"tls.crt": leaf.cert_chain_pems[0].bytes(), "tls.key": leaf.private_key_pem.bytes()}
    data = {key: base64.b64encode(value).decode() for key, value in content.items()}
    api.put("secrets", {"metadata": {"name": "oneagent-webhook-certs"}, "data": data})


@contextlib.contextmanager
def _webhook(api: kube_api.KubeApi, place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process, ready, and where it serves."""
    port, metrics = ports.free(), ports.free()
    flags = ["--image=example.com/oneagent:1", f"--address=127.0.0.1:{port}", f"--metrics-address=127.0.0.1:{metrics}"]
    environment = os.environ | {"KUBECONFIG": str(api.kubeconfig(place / "kubeconfig"))}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "oneagent.webhook.main", *flags, "--drain=0s"], stderr=log, env=environment
        )
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while ports.get(metrics, "/readyz")[0] != 200:
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError((place / "log").read_text()[-2000:])
            time.sleep(0.05)
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


class _Load:
    """An API server's connections, each with one request at a time."""

    def __init__(self, port: int, authority: trustme.CA) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        body = json.dumps(_review()).encode()
        head = f"POST /inject?timeout=10s HTTP/1.1\r\nHost: webhook\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    async def burst(self, count: int) -> float:
        """Seconds for so many, as fast as they are answered."""
        started = time.perf_counter()

        async def ask() -> None:
            async with self._connection() as one:
                for _ in range(count // _CONNECTIONS):
                    await self._ask(*one)

        await asyncio.gather(*(ask() for _ in range(_CONNECTIONS)))
        return time.perf_counter() - started

    async def steady(self) -> list[float]:
        """The seconds that each answer took, from when its request was due."""
        delays: list[float] = []
        count = _STEADY_PER_SECOND * _STEADY_SECONDS
        started = time.perf_counter() + 0.1

        async def ask(first: int) -> None:
            async with self._connection() as one:
                for number in range(first, count, _CONNECTIONS):
                    due = started + number / _STEADY_PER_SECOND
                    await asyncio.sleep(due - time.perf_counter())
                    await self._ask(*one)
                    delays.append(time.perf_counter() - due)

        await asyncio.gather(*(ask(number) for number in range(_CONNECTIONS)))
        return delays

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200") or b'"patch"' not in body:
            raise ValueError((head + body)[:1000])


def _review() -> dict[str, Any]:
    variables = [{"name": f"SETTING_{number}", "value": "x" * 60} for number in range(25)]
    mounts = [{"name": "data", "mountPath": f"/data/{number}", "readOnly": True} for number in range(5)]
    container = {"image": "registry.example.com/shop/cart:1.2.3", "env": variables, "volumeMounts": mounts}
    containers = [{"name": f"container-{number}", **container} for number in range(4)]
    metadata = {"generateName": "cart-5d4f-", "labels": {"app": "cart"}, "annotations": {"team": "a"}}
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}
    pod["metadata"]["annotations"]["filler"] = "x" * max(0, _POD_BYTES - len(json.dumps(pod)))
    request = {"uid": "705ab4f5", "operation": "CREATE", "kind": {"version": "v1", "kind": "Pod"}}
    request |= {"namespace": "team-42", "object": pod, "userInfo": {"username": "system:kube-controller-manager"}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(process: subprocess.Popen[bytes]) -> float:
    line = Path(f"/proc/{process.pid}/smaps_rollup").read_text().partition("\nRss:")[2]
    return int(line.split()[0]) / 1024
