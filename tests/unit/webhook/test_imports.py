"""Memory of the webhook: it loads nothing that it can do without in a cluster."""

from __future__ import annotations

from pathlib import Path

import trustme

from tests.fakes.imports import loaded

IN_CLUSTER = """
import asyncio
from pathlib import Path
from oneagent.webhook import api, main

async def connect():
    await api.connect(service_account=Path(sys.argv[1])).close()

asyncio.run(connect())
"""


def test_in_a_cluster_the_webhook_loads_neither_lightkube_nor_a_second_http_client(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    for name in ("token", "namespace"):
        (tmp_path / name).write_text(name)
    variables = {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "443"}
    names = loaded(IN_CLUSTER, str(tmp_path), **variables)
    assert "aiohttp" in names
    assert {"lightkube", "yaml", "httpx2", "kubernetes", "cryptography"} & names == set()
