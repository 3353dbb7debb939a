"""The Prometheus endpoint of processes that have no HTTP server of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server


def serve(address: str, registry: CollectorRegistry) -> None:
    """Serve `/metrics` at `host:port` from a daemon thread; an empty host means all addresses, '' no endpoint."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    start_http_server(int(port), addr=host or "0.0.0.0", registry=registry)
