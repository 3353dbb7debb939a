"""Memory is paid on every node: the sidecars load nothing that they can do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "grpc",
    "http.server",
    "kubernetes",
    "lightkube",
    "prometheus_client",
    "sqlalchemy",
    "ssl",
}


@pytest.mark.parametrize("module", ["registrar", "livenessprobe"])
def test_a_sidecar_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, oneagent.sidecars.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())
