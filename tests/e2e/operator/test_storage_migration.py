"""Stored DynaKubes after an upgrade, with the operator's rights; what is stored is read in etcd itself."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from oneagent.common.dynakube.api import crd
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS
from oneagent.operator import api, storage_migration
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import installation
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.test_crd import Converter

OLD: Final = VERSIONS[-2]
FASTER: Final = 60
"""How much faster than ours the operator's clock goes."""

_RANGE: Final = "http://127.0.0.1:2379/v3/kv/range"


@pytest.fixture
def converting(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """How the API server reaches somebody who converts."""
    authority = cluster.control_plane.authority
    certificate, key = authority.issue("storage", common_name="storage", hosts=[Node.address])
    server = Converter((Node.address, 0), Converter.Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    try:
        yield {"url": f"https://{Node.address}:{server.server_port}/convert", "caBundle": bundle}
    finally:
        server.shutdown()
        server.server_close()


def define(kubectl: Kubectl, definition: dict[str, Any]) -> None:
    manifest = yaml.safe_dump(definition)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)


def storing(version: str, converter: dict[str, Any]) -> dict[str, Any]:
    """The CRD with another storage version."""
    definition = copy.deepcopy(crd.manifest(converter))
    for each in definition["spec"]["versions"]:
        each["storage"] = each["name"] == version
    return definition


def dynakube(namespace: str, touched: int) -> dict[str, Any]:
    metadata = {"name": "stored", "namespace": namespace, "annotations": {"touched": str(touched)}}
    spec = {"apiUrl": "https://abc12345.live.dynatrace.com/api", "unknown": {"kept": True}}
    return {"apiVersion": f"dynatrace.com/{NEWEST}", "kind": "DynaKube", "metadata": metadata, "spec": spec}


def stored(namespace: str) -> str:
    """The version in which etcd has the DynaKube."""
    key = base64.b64encode(f"/registry/dynatrace.com/dynakubes/{namespace}/stored".encode()).decode()
    request = urllib.request.Request(_RANGE, json.dumps({"key": key}).encode())
    with urllib.request.urlopen(request, timeout=5) as response:
        (found,) = json.load(response)["kvs"]
    return str(json.loads(base64.b64decode(found["value"]))["apiVersion"])


def listed(kubectl: Kubectl) -> list[str]:
    found: list[str] = kubectl.json("get", "crd", crd.NAME)["status"]["storedVersions"]
    return found


async def migrate(rights: Path) -> None:
    """Until there is nothing left to do."""
    server = api.Api(await api.connect(rights))
    migration = storage_migration.StorageMigration(server, clock=lambda: time.monotonic() * FASTER)
    try:
        for _ in range(20):
            if (seconds := await migration.reconcile()) >= 3600:
                return
            await asyncio.sleep(seconds / FASTER)
    finally:
        await server.close()
    pytest.fail("the migration goes on and on")


def test_what_is_stored_in_an_older_version_is_brought_to_the_storage_version(
    rights: Path, converting: dict[str, Any], kubectl: Kubectl, apply: Apply, wait_for: WaitFor
) -> None:
    namespaces, touched = (NAMESPACE, "default"), iter(range(1000))

    def written_in(version: str) -> bool:
        apply(*(dynakube(namespace, next(touched)) for namespace in namespaces))
        return {stored(namespace) for namespace in namespaces} == {f"dynatrace.com/{version}"}

    try:
        define(kubectl, storing(OLD, converting))
        wait_for(lambda: written_in(OLD), f"the API server stores {OLD}")
        define(kubectl, storing(NEWEST, converting))
        assert set(listed(kubectl)) == {OLD, NEWEST}
        before = {namespace: kubectl.json("-n", namespace, "get", "dynakube", "stored") for namespace in namespaces}
        asyncio.run(migrate(rights))
        assert {stored(namespace) for namespace in namespaces} == {f"dynatrace.com/{NEWEST}"}
        assert listed(kubectl) == [NEWEST]
        for namespace in namespaces:
            now = kubectl.json("-n", namespace, "get", "dynakube", "stored")
            assert (now["spec"], now["metadata"]["generation"]) == (
                before[namespace]["spec"],
                before[namespace]["metadata"]["generation"],
            )
    finally:
        for manifest in installation.manifests("crd.yaml"):
            define(kubectl, dict(manifest))
