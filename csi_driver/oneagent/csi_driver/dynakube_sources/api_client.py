"""The connection to the API server.

In a cluster nothing else is loaded for it (`in_cluster`). Only for a kubeconfig file, which may
name certificates, plugins and proxies, lightkube does what is laborious to get right: 4 MiB that nodes do not pay.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2

from oneagent.common.kubernetes import client, in_cluster
from oneagent.common.kubernetes.in_cluster import InCluster

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig
    from lightkube.config.models import User

TIMEOUT: Final = httpx2.Timeout(10.0, connect=client.CONNECT_SECONDS)


def connect(path: Path | None = None, service_account: Path = client.SERVICE_ACCOUNT) -> tuple[httpx2.Client, str]:
    """A client for the API server, and the namespace that its configuration names; `KubeconfigError`.

    Without a file: in-cluster, then `KUBECONFIG`, then `~/.kube/config`.
    """
    if path is None and (found := in_cluster.load(service_account)) is not None:
        auth = _ServiceAccountToken(found)
        return httpx2.Client(base_url=found.url, verify=found.tls, auth=auth, timeout=TIMEOUT), found.namespace
    from lightkube.config import client_adapter

    from oneagent.common.kubernetes import kubeconfig

    def make(config: SingleConfig, _: User) -> tuple[httpx2.Client, str]:
        parameters = client_adapter.ConnectionParams(timeout=TIMEOUT)
        return client_adapter.Client(config, parameters), config.namespace

    return kubeconfig.load(make, path, service_account)


class _ServiceAccountToken(httpx2.Auth):
    def __init__(self, found: InCluster) -> None:
        self._found = found

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = self._found.authorization()
        yield request
