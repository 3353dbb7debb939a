"""The Prometheus endpoint of processes that have no HTTP server of their own."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry

from oneagent.common.http import page_server


def serve(address: str, registry: CollectorRegistry) -> None:
    """Serve `/metrics` at `host:port` from daemon threads; no host means all addresses, '' no endpoint.

    `AddressError` if nothing can listen there.
    """

    def metrics() -> page_server.Answer:
        text = prometheus_client.generate_latest(registry).decode()
        return page_server.Answer(200, text, prometheus_client.CONTENT_TYPE_LATEST)

    if address:
        page_server.serve(address, {"/metrics": metrics})
