"""A real Prometheus reads what the parts count, takes the chart's alerts, and answers what the dashboard asks."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import prometheus_client
import pytest
import yaml

from oneagent.csi_driver.metrics import ServerMetrics
from tests.fakes import ports
from tests.unit.chart.test_monitoring import ALERTS, RULES, questions
from tests.unit.registries import REGISTRIES

PATIENCE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """What it answers. Whatever it refuses is an error."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
            return found

    def values(self, expression: str) -> list[float]:
        return [float(sample["value"][1]) for sample in self.get("/api/v1/query", query=expression)["result"]]

    def firing(self, name: str) -> list[dict[str, Any]]:
        alerts = self.get("/api/v1/alerts")["alerts"]
        return [each for each in alerts if (each["labels"]["alertname"], each["state"]) == (name, "firing")]

    def all_rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if true():
                return
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def server() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def targets(server: ServerMetrics) -> Iterator[list[dict[str, Any]]]:
    """All parts, with the labels that they have by the chart's PodMonitors."""
    found = []
    with contextlib.ExitStack() as stack:
        for name, registry in {**REGISTRIES, "server": server.registry}.items():
            http, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
            stack.callback(thread.join)
            stack.callback(http.server_close)
            stack.callback(http.shutdown)
            part = name if name in ("operator", "webhook") else "csi-driver"
            labels = {"job": f"dynatrace/oneagent-{part}", "pod": f"{part}-1", "container": name}
            found.append({"targets": [f"127.0.0.1:{http.server_port}"], "labels": labels})
        yield found


@pytest.fixture
def prometheus(tmp_path: Path, targets: list[dict[str, Any]]) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus: it is in Debian's package prometheus")
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "parts", "static_configs": targets}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{ports.free()}"
    command = [
        *(program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address={address}",
    ]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()


def test_an_empty_view_on_a_node_becomes_an_alert_that_names_it(prometheus: Prometheus, server: ServerMetrics) -> None:
    eventually(lambda: prometheus.values("oneagent_csi_empty_views_total") == [0.0])
    server.empty_views.inc()
    eventually(lambda: bool(prometheus.firing("OneAgentPodsUnmonitored")))
    (alert,) = prometheus.firing("OneAgentPodsUnmonitored")
    assert "On the node of csi-driver-1 about" in alert["annotations"]["description"]
    eventually(lambda: prometheus.values("sum(up)") == [float(len(REGISTRIES))])
    assert not prometheus.firing("OneAgentPartDown")
    for question in questions():
        prometheus.get("/api/v1/query", query=question.replace("$__rate_interval", "1m"))
    eventually(lambda: all(rule["health"] != "unknown" for rule in prometheus.all_rules()))
    assert {rule["name"]: rule["health"] for rule in prometheus.all_rules()} == {rule["alert"]: "ok" for rule in RULES}
