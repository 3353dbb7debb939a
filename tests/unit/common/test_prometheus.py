from __future__ import annotations

import urllib.request

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from oneagent.common import distribution, prometheus
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


def test_the_page_is_the_librarys_without_the_times_of_creation() -> None:
    registry = CollectorRegistry()
    Counter("pods", "Pods\nseen \\ so far.", ["state"], registry=registry).labels('a"b\\c\nd').inc()
    Gauge("empty", "Without a sample.", ["state"], registry=registry)
    Gauge("store_bytes", "Size.", registry=registry).set(float("inf"))
    Gauge("many_bytes", "Size.", registry=registry).set(123456789012)
    seconds = Histogram("call_seconds", "Time.", ["method", "code"], registry=registry)
    for value in (0.001, 0.3, 1e9):
        seconds.labels("Publish", "OK").observe(value)
    theirs = generate_latest(registry).decode().splitlines()
    assert any("_created" in line for line in theirs)
    assert prometheus.render(registry).splitlines() == [line for line in theirs if "_created" not in line]


def test_a_registry_names_the_component_and_describes_its_process() -> None:
    text = prometheus.render(prometheus.create_registry("server"))
    assert f'oneagent_build_info{{component="server",version="{distribution.version()}"}} 1.0' in text
    names = {line.split()[0] for line in text.splitlines()}
    assert {
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    } <= names
