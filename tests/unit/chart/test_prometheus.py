"""A real Prometheus reads what the parts count, takes the chart's alerts, and answers what the dashboard asks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import prometheus_client
import pytest

from oneagent.csi_driver.server.metrics import ServerMetrics
from tests.fakes.prometheus import Prometheus, running
from tests.unit.chart.test_monitoring import ALERTS, RULES, concrete, questions
from tests.unit.common.oci.registries import REGISTRIES

PATIENCE_SECONDS: Final = 20.0


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
            labels = {"job": f"dynatrace/oneagent-{part}", "pod": f"{part}-1", "container": name, "node": "node-1"}
            found.append({"targets": [f"127.0.0.1:{http.server_port}"], "labels": labels})
        yield found


@pytest.fixture
def prometheus(tmp_path: Path, targets: list[dict[str, Any]]) -> Iterator[Prometheus]:
    with running(tmp_path, targets, ALERTS) as found:
        yield found


def test_an_empty_view_on_a_node_becomes_an_alert_that_names_it(prometheus: Prometheus, server: ServerMetrics) -> None:
    eventually(lambda: prometheus.values("oneagent_csi_empty_views_total") == [0.0])
    server.empty_views.inc()
    eventually(lambda: bool(prometheus.firing("OneAgentPodsUnmonitored")))
    (alert,) = prometheus.firing("OneAgentPodsUnmonitored")
    assert "On the node of csi-driver-1 about" in alert["annotations"]["description"]
    eventually(lambda: prometheus.values("sum(up)") == [float(len(REGISTRIES))])
    assert not prometheus.firing("OneAgentPartDown")
    for question in questions():
        prometheus.get("/api/v1/query", query=concrete(question))
    eventually(lambda: all(rule["health"] != "unknown" for rule in prometheus.all_rules()))
    assert {rule["name"]: rule["health"] for rule in prometheus.all_rules()} == {rule["alert"]: "ok" for rule in RULES}
