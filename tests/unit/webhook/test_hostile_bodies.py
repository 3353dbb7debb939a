"""Bodies that nobody should send: the real process answers each within a second and 64 MiB, and others meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trustme

from oneagent.common.dynakube.namespace_mapping import LABEL
from tests.fakes import kube_api
from tests.fakes import webhook as fakes
from tests.unit.webhook.test_main import KUBE, POD, Process, secret, until

SECONDS = 1.0
MIB = 64
NAMESPACES = 5000
STATUS = {
    "oneAgent": {"connectionInfoStatus": {"tenantUUID": "abc12345", "endpoints": "https://a.b/communication"}},
    "codeModules": {"version": "1.299.0.20240801-120000"},
}


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def forget_peak(self) -> float:
        """Let the kernel measure anew; returns what is resident."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak_mib()

    def post(self, path: str, body: bytes) -> tuple[httpx.Response, float, float]:
        """The answer, the processor time that it took, in seconds, and by how much the process grew meanwhile."""
        before = self.forget_peak()
        began = self.processor_seconds()
        answer = self.client.post(f"{path}?timeout=10s", content=body)
        return answer, self.processor_seconds() - began, self.peak_mib() - before

    def processor_seconds(self) -> float:
        """Unlike the clock's, these are the same on a busy machine."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    authority, place = trustme.CA(), tmp_path_factory.mktemp("webhook")
    with kube_api.KubeApi() as cluster:
        cluster.put("dynakubes", {**KUBE, "status": STATUS})
        cluster.put("csidrivers", {"metadata": {"name": "csi.oneagent.dynatrace.com"}})
        cluster.put("daemonsets", {"metadata": {"name": "oneagent-csi-driver"}, "status": {"numberReady": 1}})
        cluster.put("secrets", secret(authority))
        for number in range(NAMESPACES):
            labels = {"kubernetes.io/metadata.name": f"team-{number}", LABEL: "demo"}
            cluster.put("namespaces", {"metadata": {"name": f"team-{number}", "labels": labels}})
        webhook = Process(place, cluster)
        with webhook.running("--drain=0s", "--log-format=text") as process:
            until(lambda: webhook.ready()[0] == 200)
            url = f"https://127.0.0.1:{webhook.port}"
            with httpx.Client(base_url=url, verify=fakes.trusting(authority), trust_env=False, timeout=30) as client:
                found = Running(process, client)
                answer, *_ = found.post("/inject", review(POD))
                assert b'"patch"' in answer.content
                yield found


def review(obj: Any, **request: Any) -> bytes:
    return compact(fakes.review(obj, **{"namespace": "team-42", **request}))


def compact(body: Any) -> bytes:
    """As API servers write it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def raw_review(kind: str, obj: bytes) -> bytes:
    """Of an object that is no dictionary here."""
    return review({"kind": kind}).replace(compact({"kind": kind}), obj)


def pod(spec: dict[str, Any], **metadata: Any) -> bytes:
    return review({"kind": "Pod", "metadata": {"name": "web", **metadata}, "spec": {"containers": [CONTAINER], **spec}})


def filled(begin: bytes, item: bytes, end: bytes, size: int = 7 << 20) -> bytes:
    count = (size - len(begin) - len(end)) // (len(item) + 1)
    return begin + b",".join([item] * count) + end


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"name": f"c{number}", **fields} for number in range(count)]


CONTAINER: dict[str, Any] = {"name": "web", "image": "nginx"}
DEFAULTED = {
    "image": "nginx",
    "resources": {},
    "imagePullPolicy": "Always",
    "terminationMessagePath": "/dev/termination-log",
    "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": True}],
}
FORGED = {
    "initContainers": [
        {
            "name": "install-oneagent",
            "command": ["install-oneagent"],
            "env": [{"name": "ONEAGENT_INJECTED", "value": "true"}],
            "volumeMounts": [
                {"name": "oneagent-share", "mountPath": "/a"},
                {"name": "oneagent-bin", "mountPath": "/b"},
            ],
        }
    ],
    "volumes": [{"name": "oneagent-share", "emptyDir": {}}, {"name": "oneagent-bin", "csi": {"driver": "x"}}],
}
TERMS: dict[str, Any] = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}] * 60_000}}
}

PODS: dict[str, Callable[[], bytes]] = {
    "60,000 containers": lambda: pod({"containers": numbered(60_000, image="nginx")}),
    "30,000 defaulted containers": lambda: pod({"containers": numbered(30_000, **DEFAULTED)}),
    "60,000 init containers": lambda: pod({"initContainers": numbered(60_000, restartPolicy="Always")}),
    "60,000 ephemeral containers": lambda: pod({"ephemeralContainers": numbered(60_000)}),
    "60,000 containers beside a forged injection": lambda: pod({**FORGED, "containers": numbered(60_000)}),
    "499 large containers": lambda: pod({"containers": numbered(499, image="$" * 6000)}),
    "60,000 variables": lambda: pod({"containers": [{**CONTAINER, "env": numbered(60_000, value="x")}]}),
    "60,000 volumes": lambda: pod({"volumes": numbered(60_000, emptyDir={})}),
    "60,000 mounts": lambda: pod({"containers": [{**CONTAINER, "volumeMounts": numbered(60_000, mountPath="/x/y")}]}),
    "60,000 terms": lambda: pod({"affinity": TERMS}),
    "60,000 annotations": lambda: pod(
        {}, annotations={f"container.inject.dynatrace.com/c{number}": "perhaps" for number in range(60_000)}
    ),
    "a long path": lambda: pod({"volumes": [{"name": "v", "hostPath": {"path": "/ab" * 900_000}}]}),
    "a long mount path": lambda: pod(
        {"containers": [{**CONTAINER, "volumeMounts": [{"name": "v", "mountPath": "/ab" * 900_000}]}]}
    ),
    "a long name": lambda: pod({"volumes": [{"name": "oneagent-bin"}]}, name="a b " * 700_000),
    "an image in another alphabet": lambda: pod({"containers": [{"name": "a", "image": "😀" + "$" * 2_900_000}]}),
    "a long LD_PRELOAD": lambda: pod(
        {"containers": [{**CONTAINER, "env": [{"name": "LD_PRELOAD", "value": "a:" * 1_400_000}]}]}
    ),
    "many empty objects": lambda: raw_review(
        "Pod", filled(b'{"metadata":{},"a":[', b"{}", b'],"spec":{"containers":[]}}')
    ),
    "many empty containers": lambda: raw_review(
        "Pod", filled(b'{"metadata":{},"spec":{"containers":[', b'{"name":""}', b"]}}")
    ),
    "many numbers": lambda: raw_review("Pod", filled(b'{"metadata":{},"spec":{"containers":[', b"1234567", b"]}}")),
}


@pytest.mark.parametrize("case", PODS)
def test_a_pod_takes_a_second_and_64_mib_at_most(running: Running, case: str) -> None:
    answer, seconds, mib = running.post("/inject", PODS[case]())
    print(f"{case}: {answer.status_code}, {len(answer.content):,} bytes, {seconds:.2f} s, {mib:.0f} MiB")
    assert answer.status_code == 200
    assert answer.json()["response"]["allowed"]
    assert (seconds < SECONDS, mib < MIB) == (True, True), f"{seconds:.2f} s, {mib:.0f} MiB"


@pytest.mark.parametrize("field", ["containers", "initContainers", "ephemeralContainers"])
def test_a_pod_with_more_than_500_containers_is_left_alone_with_a_reason(running: Running, field: str) -> None:
    least = 500 if field == "containers" else 499
    answer, *_ = running.post("/inject", pod({field: numbered(least)}))
    assert reason(answer) is None
    answer, *_ = running.post("/inject", pod({field: numbered(least + 1)}))
    assert reason(answer) == "PodTooLarge"
    assert "501 containers, and at most 500 are injected" in answer.json()["response"]["warnings"][0]


@pytest.mark.parametrize("metadata", [{}, {"annotations": {}}, {"annotations": {"a": "b"}}])
def test_a_pod_that_is_not_even_decoded_has_the_reason_too(running: Running, metadata: dict[str, Any]) -> None:
    answer, *_ = running.post("/inject", pod({"containers": numbered(30_000, **DEFAULTED)}, **metadata))
    assert reason(answer) == "PodTooLarge"
    added = [one["path"] for one in fakes.patch(answer.json()["response"])]
    assert ("/metadata/annotations" in added) == ("annotations" not in metadata)


def reason(answer: httpx.Response) -> str | None:
    """The annotation in a patch."""
    for operation in fakes.patch(answer.json()["response"]):
        if operation["path"] == "/metadata/annotations":
            return str(operation["value"].get("oneagent.dynatrace.com/reason", "")) or None
        if operation["path"].endswith("~1reason"):
            return str(operation["value"])
    return None


def dynakube(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "demo", "namespace": "dynatrace", "annotations": annotations or {}}
    api_url = "https://abc12345.live.dynatrace.com/api"
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": metadata,
        "spec": {"apiUrl": api_url, "oneAgent": {"cloudNativeFullStack": spec}},
    }


def unknown(count: int) -> dict[str, Any]:
    return {f"field{number}": {"a": number} for number in range(count)}


def flags(count: int) -> dict[str, str]:
    return {f"feature.dynatrace.com/{number}-{'automatic-injection' * 3}": "x" for number in range(count)}


def ignored(patterns: list[str]) -> dict[str, str]:
    return {"feature.dynatrace.com/ignored-namespaces": json.dumps(patterns)}


def expressions(count: int) -> dict[str, Any]:
    return {"matchExpressions": [{"key": f"k{number}", "operator": "DoesNotExist"} for number in range(count)]}


DYNAKUBES: dict[str, Callable[[], dict[str, Any]]] = {
    "30,000 unknown flags": lambda: dynakube(annotations=flags(30_000)),
    "a long unknown flag": lambda: dynakube(annotations={"feature.dynatrace.com/" + "ab" * 500_000: "x"}),
    "50,000 patterns": lambda: dynakube(annotations=ignored([f"^p{number}" for number in range(50_000)])),
    "200 large patterns": lambda: dynakube(
        annotations=ignored([f"(x{{{500 + number}}}y){{1,9}}" for number in range(200)])
    ),
    "200 patterns that match nothing": lambda: dynakube(
        annotations=ignored([f"(a|b)*{number}$" for number in range(200)])
    ),
    "30,000 expressions": lambda: dynakube(namespaceSelector=expressions(30_000)),
    "100 expressions": lambda: dynakube(namespaceSelector=expressions(100)),
    "6,000 labels": lambda: dynakube(nodeSelector={f"-{number}": "-" for number in range(6_000)}),
    "6,000 unknown flags": lambda: dynakube(annotations=flags(6_000)),
    "6,000 unknown fields": lambda: dynakube(None, **unknown(6_000)),
    "60,000 labels": lambda: dynakube(nodeSelector={f"-{number}": "-" for number in range(60_000)}),
    "60,000 arguments": lambda: dynakube(args=[f"--a{number}" for number in range(60_000)]),
    "60,000 unknown fields": lambda: dynakube(None, **unknown(60_000)),
    "long texts": lambda: dynakube(version="a." * 900_000, codeModulesImage="a/" * 500_000),
    "a long url": lambda: {
        **dynakube(),
        "spec": {"apiUrl": "https://" + "a-." * 900_000, "proxy": {"value": "x@" * 9000}},
    },
}


@pytest.mark.parametrize("case", DYNAKUBES)
@pytest.mark.parametrize("version", ["v1beta6", "v1alpha1"])
def test_a_dynakube_takes_a_second_and_64_mib_at_most(running: Running, case: str, version: str) -> None:
    obj = {**DYNAKUBES[case](), "apiVersion": f"dynatrace.com/{version}"}
    answer, seconds, mib = running.post("/validate", review(obj, operation="CREATE"))
    print(f"{case}: {answer.status_code}, {len(answer.content):,} bytes, {seconds:.2f} s, {mib:.0f} MiB")
    assert answer.status_code == 200
    assert (seconds < SECONDS, mib < MIB) == (True, True), f"{seconds:.2f} s, {mib:.0f} MiB"


CONVERSIONS: dict[str, Callable[[], list[Any]]] = {
    "20,000 small objects": lambda: [{**dynakube(), "spec": {}}] * 20_000,
    "500 usual objects": lambda: [dynakube(annotations={"a": "b"}, namespaceSelector=expressions(3))] * 500,
    "objects of many values": lambda: [DYNAKUBES["60,000 unknown fields"]()],
    "objects of long texts": lambda: [dynakube(version="😀" + "a" * 2_500_000)] * 2,
    "objects that are none": lambda: [{}] * 90_000,
    "no objects": lambda: [[]] * 90_000,
}


@pytest.mark.parametrize("case", CONVERSIONS)
@pytest.mark.parametrize("version", ["v1alpha1", "v1beta3"])
def test_a_conversion_takes_a_second_and_64_mib_at_most(running: Running, case: str, version: str) -> None:
    request = {"uid": "1", "desiredAPIVersion": f"dynatrace.com/{version}", "objects": CONVERSIONS[case]()}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}
    answer, seconds, mib = running.post("/convert", compact(body))
    print(f"{case}: {answer.status_code}, {len(answer.content):,} bytes, {seconds:.2f} s, {mib:.0f} MiB")
    assert answer.status_code in (200, 413)
    assert (seconds < SECONDS, mib < MIB) == (True, True), f"{seconds:.2f} s, {mib:.0f} MiB"


def test_a_namespace_takes_a_second_and_64_mib_at_most(running: Running) -> None:
    labels = {f"label-{number}": "x" for number in range(60_000)}
    namespace = {"kind": "Namespace", "metadata": {"name": "new", "labels": labels}}
    answer, seconds, mib = running.post("/label-ns", review(namespace))
    assert answer.status_code == 200
    assert (seconds < SECONDS, mib < MIB) == (True, True), f"{seconds:.2f} s, {mib:.0f} MiB"


BODY = 8 << 20
TOTAL = 32 << 20


class Sender:
    """A client that sends a request in pieces."""

    def __init__(self, running: Running, headers: str) -> None:
        plain = socket.create_connection(("127.0.0.1", running.client.base_url.port or 0), timeout=20)
        self.socket = ssl._create_unverified_context().wrap_socket(plain)
        self.send(f"POST /inject?timeout=10s HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())

    def send(self, data: bytes) -> None:
        # A request that was refused may be closed by now.
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def status(self, seconds: float = 20) -> int:
        """Of the answer; 0 if none comes in time."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            return int(self.socket.recv(1000).split()[1])
        return 0

    def is_refused(self) -> bool:
        return self.status(0.1) == 503


@pytest.fixture
def senders(running: Running) -> Iterator[Callable[[str], Sender]]:
    opened: list[Sender] = []

    def open_one(headers: str) -> Sender:
        opened.append(Sender(running, headers))
        return opened[-1]

    yield open_one
    for sender in opened:
        sender.socket.close()


def is_answered(running: Running) -> bool:
    return running.client.post("/inject", content=review(POD)).status_code == 200


def test_bodies_of_32_mib_are_read_at_once_and_more_get_503(running: Running, senders: Callable[[str], Sender]) -> None:
    """The length that a header tells counts, before any of the body has come."""
    taken = [senders(f"Content-Length: {BODY}") for _ in range(TOTAL // BODY)]
    until(lambda: running.client.post("/inject", content=review(POD)).status_code == 503)
    assert senders(f"Content-Length: {BODY}").status() == 503
    for sender in taken:
        sender.send(b" " * BODY)
        assert sender.status() == 400
    assert is_answered(running)


def test_chunked_bodies_count_as_they_come(running: Running, senders: Callable[[str], Sender]) -> None:
    piece = f"{1 << 20:x}\r\n".encode() + b" " * (1 << 20) + b"\r\n"
    taken = [senders("Transfer-Encoding: chunked") for _ in range(5)]
    assert is_answered(running)
    for _ in range(7):
        for sender in taken:
            sender.send(piece)
    until(lambda: any(sender.is_refused() for sender in taken))
    for sender in taken:
        sender.send(b"0\r\n\r\n")
    until(lambda: is_answered(running))


def test_a_compressed_body_is_not_unpacked(running: Running) -> None:
    bomb = gzip.compress(b" " * (256 << 20))
    before = running.forget_peak()
    answer = running.client.post("/inject", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert running.peak_mib() - before < MIB


def test_40_bodies_of_8_mib_do_not_end_it(running: Running, senders: Callable[[str], Sender]) -> None:
    before = running.forget_peak()
    sending = [senders(f"Content-Length: {BODY}") for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda sender: sender.send(b" " * (BODY - 1)), sending))
        statuses = list(threads.map(lambda sender: sender.status(1), sending))
    assert set(statuses) <= {0, 503} and statuses.count(503) >= 36
    for sender in sending:
        sender.socket.close()
    until(lambda: is_answered(running))
    assert running.peak_mib() - before < 2 * MIB, "32 MiB of bodies, and each once more while it is put together"


def test_the_webhook_keeps_256_connections_and_answers_among_silent_ones(running: Running) -> None:
    port = running.client.base_url.port
    before = len(os.listdir(f"/proc/{running.process.pid}/fd"))
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        assert is_answered(running)
        until(lambda: len(os.listdir(f"/proc/{running.process.pid}/fd")) <= before + 256)
