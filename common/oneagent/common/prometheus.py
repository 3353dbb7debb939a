"""Metrics of processes that have no HTTP server of their own: the library's metrics, and a page of them.

The library's package begins with HTTP servers and clients, 2 MiB of each process on each node. A process that postpones
`prometheus_client` (see `lazy_modules`) and imports names from here loads only the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# First: `metrics` asks its package for this module, which would otherwise load the whole package.
import prometheus_client.values  # noqa: F401
from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from oneagent.common import distribution
from oneagent.common.http import page_server

__all__ = [
    "CONTENT_TYPE",
    "Collector",
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "GaugeMetricFamily",
    "Histogram",
    "Metric",
    "add_build_info",
    "create_registry",
    "render",
    "serve",
]

_number: Callable[[float], str] = floatToGoString

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def create_registry(component: str) -> CollectorRegistry:
    """Return a registry with `oneagent_build_info` and the usual `process_…` of this process."""
    registry = CollectorRegistry()
    add_build_info(component, registry)
    ProcessCollector(registry=registry)
    return registry


def add_build_info(component: str, registry: CollectorRegistry) -> None:
    """Register `oneagent_build_info`: always 1, with the component and its version as labels."""
    info = Gauge(
        "oneagent_build_info",
        "Always 1; the labels name the component and its version.",
        ["component", "version"],
        registry=registry,
    )
    info.labels(component, distribution.version()).set(1)


def serve(address: str, registry: CollectorRegistry) -> None:
    """Serve `/metrics` at `host:port` from daemon threads; no host means all addresses, '' no endpoint.

    `AddressError` if nothing can listen there.
    """

    def metrics() -> page_server.Answer:
        return page_server.Answer(200, render(registry), CONTENT_TYPE)

    if address:
        page_server.serve(address, {"/metrics": metrics})


def render(registry: CollectorRegistry) -> str:
    """Return counters, gauges and histograms as `prometheus_client.generate_latest` does, without `_created` series.

    Those would be a third of all series, and no alert or panel reads them.
    """
    lines: list[str] = []
    for metric in registry.collect():
        text = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {metric.type}"]
        lines += [_line(sample) for sample in metric.samples if sample.name != f"{metric.name}_created"]
    return "".join(f"{line}\n" for line in lines)


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}} {_number(sample.value)}" if labels else f"{sample.name} {_number(sample.value)}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
