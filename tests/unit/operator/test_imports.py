"""Memory of the operator: it loads nothing that it can do without in a cluster."""

from __future__ import annotations

from tests.fakes.imports import loaded

CONNECTED = """
import asyncio
from kubernetes.aio import client
from oneagent.operator import main

async def connect():
    await client.ApiClient(client.Configuration()).close()

asyncio.run(connect())
"""


def test_the_operator_loads_no_synchronous_client_and_nothing_for_kubeconfig_files() -> None:
    names = loaded("import oneagent.operator.main" + CONNECTED)
    assert {"kubernetes.aio.client.api_client", "cryptography", "httpx2"} <= names
    unused = {"kubernetes.client", "kubernetes.config", "kubernetes.aio.config", "kubernetes.aio.watch"}
    assert unused & names == set()
    assert {"oauthlib", "requests", "urllib3", "websocket", "lightkube"} & names == set()
