"""The package endpoint: agent versions that DynaKubes want, served inside the cluster, each downloaded once.

    caller ─ TLS ─> server ─> callers (who is it?) ─> fetches (one download each) ─> shelf (files, a budget)

A pod without the node driver gets its agent here without ever holding a tenant's token, and nodes may come here
before they go to the tenant. Every replica of the operator can serve; each has a shelf of its own.
"""

from oneagent.operator.package_server.downloader import Origin, Wanted
from oneagent.operator.package_server.metrics import PackageMetrics
from oneagent.operator.package_server.server import Certificates, PackageEndpoint, Settings

__all__ = [
    "Certificates",
    "Origin",
    "PackageEndpoint",
    "PackageMetrics",
    "Settings",
    "Wanted",
]
