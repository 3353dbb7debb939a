"""The registries of all parts, as their processes fill them: what documentation, alerts and dashboard may name."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

from oneagent.common import prometheus
from oneagent.common.kubernetes import watch_silence
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.server.metrics import ServerMetrics
from oneagent.operator.certificates import controller
from oneagent.operator.package_server.metrics import PackageMetrics
from oneagent.webhook import api as webhook_api
from oneagent.webhook import cache
from oneagent.webhook.cache import circuit_breaker
from oneagent.webhook.metrics import Metrics as WebhookMetrics


def operator_metrics() -> CollectorRegistry:
    registry = CollectorRegistry()
    prometheus.add_build_info("operator", registry)
    controller.Metrics(registry)
    PackageMetrics(registry)
    watch_silence.create_gauge("operator", registry)
    return registry


async def webhook_metrics() -> CollectorRegistry:
    registry = CollectorRegistry()
    WebhookMetrics(registry)
    async with aiohttp.ClientSession() as session:
        server = webhook_api.Api(session, lambda: "", "dynatrace")
        cache.ClusterCache(server, "dynatrace", circuit_breaker.CircuitBreaker(), registry)
    return registry


REGISTRIES: Final = {
    "server": ServerMetrics().registry,
    "provisioner": ProvisionerMetrics().registry,
    "operator": operator_metrics(),
    "webhook": asyncio.run(webhook_metrics()),
}


def counted(registry: CollectorRegistry) -> set[str]:
    """The metrics' names as Prometheus shows them."""
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}


def series() -> set[str]:
    """The names of all series that are read of the parts: of a histogram those of its three."""
    found = set[str]()
    for registry in REGISTRIES.values():
        for family in registry.collect():
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            found |= {family.name + end for end in ends}
    return found
