"""DynaKubes and namespaces as the operator's tests write them, and what they ask of them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.mode import Mode
from oneagent.operator import api
from oneagent.operator.reconcilers import injection_secret
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Manifest
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE

_AT_ONCE: Final = 16


class DynaKubeReader:
    """What tests ask of a DynaKube and of namespaces."""

    def __init__(self, cluster: Cluster, wait_for: WaitFor) -> None:
        self._plane, self._wait_for = cluster.control_plane, wait_for

    def status(self, name: str) -> dict[str, Any]:
        path = f"/apis/dynatrace.com/v1beta6/namespaces/{NAMESPACE}/dynakubes/{name}"
        found: dict[str, Any] = self._plane.call("GET", path).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        conditions = self.status(name).get("conditions", [])
        found: dict[str, Any] = next((item for item in conditions if item["type"] == kind), {})
        return found

    def wait_condition(self, name: str, kind: str, status: str, text: str = "", within: float = 30) -> dict[str, Any]:
        def met() -> dict[str, Any]:
            condition = self.condition(name, kind)
            return condition if condition.get("status") == status and text in condition["message"] else {}

        return self._wait_for(met, f"condition {kind} of {name} is {status} with {text!r}", within)

    def owners(self, prefix: str) -> dict[str, str]:
        """The DynaKube that each namespace of a test is labelled with; '' for none."""
        found = self._plane.call("GET", "/api/v1/namespaces")["items"]
        metadata = [item["metadata"] for item in found if item["metadata"]["name"].startswith(prefix)]
        return {item["name"]: item.get("labels", {}).get(namespace_mapping.LABEL, "") for item in metadata}

    def with_secret(self, prefix: str) -> set[str]:
        """The namespaces of a test that have what pods without CSI need."""
        found = self._plane.call("GET", "/api/v1/secrets")["items"]
        named = {item["metadata"]["namespace"] for item in found if item["metadata"]["name"] == injection_secret.NAME}
        return {namespace for namespace in named if namespace.startswith(prefix)}

    def label(self, namespace: str, team: str) -> None:
        patch = {"metadata": {"labels": {"team": team}}}
        self._plane.call("PATCH", f"/api/v1/namespaces/{namespace}", patch)

    def delay(self, namespace: str, team: str, owner: str) -> float:
        """Seconds from a change of the team's label to the DynaKube's."""
        self.label(namespace, team)
        start = time.monotonic()
        while True:
            labels = self._plane.call("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]
            if labels.get(namespace_mapping.LABEL) == owner:
                return time.monotonic() - start
            assert time.monotonic() - start < 20, f"{namespace} is still {labels}"
            time.sleep(0.005)

    def wait_owners(self, prefix: str, wanted: dict[str, str], within: float = 20) -> None:
        self._wait_for(lambda: self.owners(prefix) == wanted, f"namespaces are labelled {wanted}", within)


async def create(kubeconfig: Path, manifests: Iterable[Manifest]) -> None:
    """Namespaces, in a fraction of the time that kubectl takes for so many."""
    server, free = api.Api(await api.connect(kubeconfig)), asyncio.Semaphore(_AT_ONCE)

    async def one(manifest: Manifest) -> None:
        async with free:
            await server.create(api.NAMESPACES, dict(manifest))

    try:
        await asyncio.gather(*map(one, manifests))
    finally:
        await server.close()


def dynakube(name: str, api_url: str, team: str, mode: str = "applicationMonitoring", **fields: Any) -> Manifest:
    selector = {"namespaceSelector": {"matchLabels": {"team": team}}} if Mode(mode).injects else {}
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"apiUrl": api_url, "oneAgent": {mode: {**selector, **fields}}},
    }


def secret(name: str, token: str, **more: str) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"apiToken": token, **more}}


def decoded(secret: dict[str, Any]) -> str:
    return "\n".join(base64.b64decode(value).decode(errors="replace") for value in (secret.get("data") or {}).values())


def namespace(name: str, team: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}
