"""Silent watches, for readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from oneagent.common.kubernetes.watch import Watch


def problem(watches: Iterable[Watch[Any]]) -> str:
    """The watches that have been silent for too long, in one line; '' if there are none."""
    return "; ".join(silence for watch in watches if (silence := watch.silence))


def create_gauge(component: str, registry: CollectorRegistry) -> Gauge:
    text = "Seconds since the API server's last response to a watch."
    return Gauge(f"oneagent_{component}_watch_silent_seconds", text, ["resource"], registry=registry)


def export(watches: Iterable[Watch[Any]], gauge: Gauge) -> None:
    """Give a gauge a sample for each watch, computed at each scrape."""
    for watch in watches:
        gauge.labels(watch.resource).set_function(_seconds_of(watch))


def _seconds_of(watch: Watch[Any]) -> Callable[[], float]:
    return lambda: watch.silent_seconds
