"""Memory is paid on every node: server and provisioner load nothing that they can do without."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.fakes.imports import loaded

UNUSED = {"asyncio", "email", "html", "http.server", "importlib.metadata", "pickle", "ssl", "wsgiref", "zipfile"}
IN_CLUSTER = """
import sys
from pathlib import Path
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
KubernetesSource(service_account=Path(sys.argv[1]))
"""


def test_the_server_loads_neither_tls_nor_asyncio_nor_an_http_server() -> None:
    names = loaded("import oneagent.csi_driver.server.main")
    assert {"grpc", "google.protobuf", "prometheus_client.metrics"} <= names
    unused = {"grpc.aio", "google.protobuf.internal.python_message", "prometheus_client", *UNUSED}
    assert unused & names == set()


@pytest.mark.parametrize("sidecar", ["registrar", "livenessprobe"])
def test_a_sidecar_loads_no_second_implementation_of_protobuf(sidecar: str) -> None:
    names = loaded(f"import oneagent.sidecars.{sidecar}")
    assert "google.protobuf" in names
    unused = {"google.protobuf.internal.python_message", "google.protobuf.text_format", *UNUSED}
    assert unused & names == set()


def test_in_a_cluster_the_provisioner_loads_neither_lightkube_nor_yaml(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    for name in ("token", "namespace"):
        (tmp_path / name).write_text(name)
    variables = {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "443"}
    program = "import oneagent.csi_driver.provisioner.main" + IN_CLUSTER
    names = loaded(program, str(tmp_path), **variables)
    assert {"httpx2", "ssl"} <= names
    unused = {"lightkube", "yaml", "asyncio", "anyio", "h2.connection", "http.server", "cryptography"}
    assert unused & names == set()
