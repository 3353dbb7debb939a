"""The operator after etcd was restored from a backup: what it wrote since is lost, and it writes it again."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import pytest
from prometheus_client import CollectorRegistry

from oneagent.common.identifiers import DRIVER_NAME
from oneagent.common.injection import contract
from oneagent.common.kubernetes.errors import GoneError
from oneagent.operator import api
from oneagent.operator.certificates.controller import Metrics
from oneagent.operator.controller import Controller, ControllerSettings
from oneagent.operator.reconcilers import node_access
from tests.fakes import object_api, packages, provisioner
from tests.fakes.object_api import Key, Objects
from tests.fakes.tenant import Tenant

NAMESPACE: Final = "dynatrace"
ROLE: Final = ("Role", NAMESPACE, node_access.ROLE)
WRITTEN: Final = {
    "injection": ("Secret", "shop", contract.INJECTION_SECRET),
    "pull secret of the init container": ("Secret", "shop", contract.PULL_SECRET),
    "host agents' tokens": ("Secret", NAMESPACE, "hosts-oneagent"),
    "host agents": ("DaemonSet", NAMESPACE, "hosts-oneagent"),
    "tenant's answers": ("Secret", NAMESPACE, "views.tenant-config"),
}


class Restorable(Objects):
    """Watches show what changes; a restore ends them and lowers the version."""

    def __init__(self) -> None:
        super().__init__()
        self._restores = 0

    def put(self, kind: str, obj: Mapping[str, Any]) -> api.Object:
        stored = super().put(kind, obj)
        stored["metadata"].setdefault("generation", 1)
        return stored

    async def apply(self, resource: api.Resource, obj: Mapping[str, Any], *, subresource: str = "") -> api.Object:
        if not subresource:
            return await super().apply(resource, obj)
        metadata = obj["metadata"]
        stored = self.stored[resource.kind, metadata["namespace"], metadata["name"]]
        return copy.deepcopy(self.put(resource.kind, {**stored, subresource: obj[subresource]}))

    async def create(self, resource: api.Resource, manifest: Mapping[str, Any], namespace: str = "") -> api.Object:
        return copy.deepcopy(self.put(resource.kind, manifest))

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._events(object_api.collection(path)[0].kind, int(parameters["resourceVersion"]))

    async def _events(self, kind: str, seen: int) -> AsyncIterator[bytes]:
        restores = self._restores
        while True:
            if restores != self._restores:
                raise GoneError("410")
            found = [obj for key, obj in self.stored.items() if key[0] == kind and version(obj) > seen]
            for obj in sorted(found, key=version):
                seen = version(obj)
                yield json.dumps({"type": "MODIFIED", "object": obj}).encode() + b"\n"
            await asyncio.sleep(0.01)

    def backup(self) -> tuple[dict[Key, api.Object], int]:
        return copy.deepcopy(self.stored), self._version

    def restore(self, backup: tuple[dict[Key, api.Object], int]) -> None:
        self.stored, self._version = backup
        self._restores += 1


def version(obj: Mapping[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with Tenant() as tenant:
        tenant.release(packages.VERSION, packages.build(tmp_path / "agent.zip"))
        yield tenant


def cluster(tenant: Tenant) -> Restorable:
    """A namespace whose pods have no CSI, host agents, and a DynaKube with views."""
    objects = Restorable()
    objects.put("Namespace", {"metadata": {"name": "kube-system", "uid": "c0ffee"}})
    objects.put("Namespace", {"metadata": {"name": "shop", "labels": {"team": "shop"}}})
    objects.put("CSIDriver", {"metadata": {"name": DRIVER_NAME}, "spec": {"volumeLifecycleModes": ["Ephemeral"]}})
    objects.put("Role", {"metadata": {"name": node_access.ROLE, "namespace": NAMESPACE}})
    settings = base64.b64encode(b'{"auths": {}}').decode()
    metadata = {"name": "registry", "namespace": NAMESPACE}
    pull_secret = {"metadata": metadata, "type": "kubernetes.io/dockerconfigjson"}
    objects.put("Secret", {**pull_secret, "data": {".dockerconfigjson": settings}})
    for name, mode in (
        ("shop", "applicationMonitoring"),
        ("hosts", "hostMonitoring"),
        ("views", "cloudNativeFullStack"),
    ):
        manifest = provisioner.manifest(name, tenant.api_url, mode=mode)
        selector = {"namespaceSelector": {"matchLabels": {"team": name}}} if mode != "hostMonitoring" else {}
        manifest["spec"]["oneAgent"][mode] |= selector
        if mode == "applicationMonitoring":
            manifest["spec"]["oneAgent"][mode]["useCSIDriver"] = False
        objects.put("DynaKube", manifest)
        token = {"apiToken": base64.b64encode(tenant.token.encode()).decode()}
        objects.put("Secret", {"metadata": {"name": name, "namespace": NAMESPACE}, "data": token})
    return objects


@contextlib.asynccontextmanager
async def running(objects: Objects) -> AsyncIterator[None]:
    settings = ControllerSettings(NAMESPACE, "v1beta6", "", "1", None, pull_secrets=("registry",))
    controller = Controller(cast("api.Api", objects), settings, Metrics(CollectorRegistry()))
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"in vain: {what()}")


def test_what_was_written_since_the_backup_is_written_again(tenant: Tenant) -> None:
    async def test() -> None:
        objects = cluster(tenant)

        def missing() -> list[str]:
            absent = [what for what, key in WRITTEN.items() if key not in objects.stored]
            return absent if objects.stored[ROLE].get("rules") else [*absent, "rules of the Role"]

        async with running(objects):
            await until(lambda: not missing(), missing)
            await asyncio.sleep(1)  # Nothing is under way any more, which would write it anyway.
            # A backup from before the operator wrote, except that the namespace has its label.
            before, age = objects.backup()
            before[ROLE]["rules"] = []
            for key in WRITTEN.values():
                del before[key]
            for number in range(50):
                objects.put("Namespace", {"metadata": {"name": f"later-{number}"}})
            await asyncio.sleep(0.1)
            objects.restore((before, age))
            await until(lambda: not missing(), missing)

    asyncio.run(test())
