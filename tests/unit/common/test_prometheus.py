from __future__ import annotations

import urllib.request

from prometheus_client import CollectorRegistry, Counter

from oneagent.common import prometheus
from tests.fakes import ports


def test_an_address_serves_the_registry_and_no_other_metrics() -> None:
    registry = CollectorRegistry()
    Counter("pods", "Pods seen.", registry=registry).inc(3)
    port = ports.free()

    prometheus.serve(f"127.0.0.1:{port}", registry)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert "pods_total 3.0" in text
    assert "python_info" not in text


def test_without_an_address_nothing_listens() -> None:
    prometheus.serve("", CollectorRegistry())
