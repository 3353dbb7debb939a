"""OpenTelemetry's Collector in a pod, and what it received. It wants the token that the agents get from a Secret."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml

from tests.cluster import telemetry_images
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Manifest
from tests.cluster.node import KUBELET
from tests.demo.collector import Span
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor

NAMESPACE: Final = "telemetry"
HOST: Final = f"collector.{NAMESPACE}"
PORT: Final = 4318
TOKEN: Final = "s3cret"

_FILE: Final = "received.json"
_SIGNALS: Final = ("traces", "metrics", "logs")
_CONFIGURATION: Final = {
    "extensions": {"bearertokenauth": {"token": TOKEN}},
    "receivers": {
        "otlp": {"protocols": {"http": {"endpoint": f"0.0.0.0:{PORT}", "auth": {"authenticator": "bearertokenauth"}}}}
    },
    "exporters": {"file": {"path": f"/data/{_FILE}"}},
    "service": {
        "extensions": ["bearertokenauth"],
        "telemetry": {"metrics": {"level": "none"}},
        "pipelines": {signal: {"receivers": ["otlp"], "exporters": ["file"]} for signal in _SIGNALS},
    },
}
_KINDS: Final = {2: "server", 3: "client"}
"""`SpanKind` of OTLP"""


class CollectorPod:
    def __init__(self, cluster: Cluster, wait_for: WaitFor) -> None:
        self._kubectl, self._wait_for = cluster.kubectl, wait_for
        self.address = ""

    def start(self) -> None:
        self._kubectl.apply(manifests.namespace(NAMESPACE))
        self._kubectl.apply(*_objects())
        self.address = self._kubectl.json("-n", NAMESPACE, "get", "service", "collector")["spec"]["clusterIP"]
        self.wait_ready()

    def go_away(self) -> None:
        """Leave nothing that listens at its address."""
        self._scale(0)
        self._wait_for(lambda: not self._pods(), "the collector's pod is gone")

    def come_back(self) -> None:
        """With nothing of what it had received."""
        self._scale(1)
        self.wait_ready()

    def remove(self) -> None:
        self._kubectl.delete(manifests.namespace(NAMESPACE), wait=False)

    def wait_ready(self) -> None:
        rollout = ("rollout", "status", "deployment/collector", "--timeout=60s")
        self._kubectl("-n", NAMESPACE, *rollout, timeout=70)

    def refuses(self, headers: dict[str, str]) -> bool:
        """Return True if a request with these headers is not let in."""
        url = f"http://{self.address}:{PORT}/v1/traces"
        request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=5):
                return False
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
            return True

    def spans(self) -> list[Span]:
        """Return what has come since it started."""
        return [span for line in self._lines() for span in _spans(line)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        for pod in self._pods():
            path = KUBELET / "pods" / pod["metadata"]["uid"] / "volumes/kubernetes.io~empty-dir/data" / _FILE
            with contextlib.suppress(FileNotFoundError):
                # The last line may not be complete yet.
                yield from (json.loads(line) for line in path.read_text().split("\n")[:-1])

    def _pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._kubectl.json("-n", NAMESPACE, "get", "pods")["items"]
        return found

    def _scale(self, replicas: int) -> None:
        self._kubectl("-n", NAMESPACE, "scale", "deployment/collector", f"--replicas={replicas}")


def _objects() -> Iterable[Manifest]:
    metadata = {"name": "collector", "namespace": NAMESPACE}
    labels = {"app": "collector"}
    template = manifests.application("collector", NAMESPACE)
    container = {
        **manifests.container("collector"),
        "image": telemetry_images.COLLECTOR,
        "command": ["/otelcol", "--config=/configuration/collector.yaml"],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/configuration"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [{"name": "configuration", "configMap": {"name": "collector"}}, {"name": "data", "emptyDir": {}}]
    pod = {"metadata": {"labels": labels}, "spec": {**template["spec"], "containers": [container], "volumes": volumes}}
    return (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"collector.yaml": yaml.safe_dump(_CONFIGURATION)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
    )


def _spans(message: dict[str, Any]) -> Iterator[Span]:
    """Yield the spans of a message in OTLP's form of JSON."""
    for group in message.get("resourceSpans", ()):
        attributes = group["resource"].get("attributes", ())
        resource = {item["key"]: item["value"].get("stringValue", "") for item in attributes}
        for span in (span for scope in group["scopeSpans"] for span in scope["spans"]):
            yield Span(
                trace=span["traceId"],
                id=span["spanId"],
                parent=span.get("parentSpanId", ""),
                name=span["name"],
                kind=_KINDS.get(span.get("kind", 0), "other"),
                start_ns=int(span["startTimeUnixNano"]),
                end_ns=int(span["endTimeUnixNano"]),
                resource=resource,
                authorization="",
            )
