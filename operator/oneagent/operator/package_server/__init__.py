"""The package server: serves agent packages inside the cluster and downloads each of them once.

    client ─ TLS ─> server ─> handlers ─> authentication ─> downloader (single-flight) ─> cache (files, a budget)

A pod without the node driver gets its agent here and never holds a tenant's token. Nodes can use it as a mirror of
the tenant. Every replica of the operator serves, each with a cache of its own.
"""

from oneagent.operator.package_server.downloader import DesiredVersion, Origin
from oneagent.operator.package_server.metrics import PackageMetrics
from oneagent.operator.package_server.server import Certificates, PackageServer, PackageServerSettings

__all__ = [
    "Certificates",
    "DesiredVersion",
    "Origin",
    "PackageMetrics",
    "PackageServer",
    "PackageServerSettings",
]
