"""Credentials for the init container's image, in the namespaces whose pods have one."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, cache, reconcile_result
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcilers import pull_secret
from tests.unit.operator.reconcilers.test_injection_secret import Server

DYNAKUBE = DynaKubeName("demo")
COPY = "oneagent-image-pull"


class World:
    """A DynaKube without CSI that has two namespaces, and a chart with two pull Secrets."""

    def __init__(self, names: tuple[str, ...] = ("first", "second")) -> None:
        self.server, self.observed = Server(), cache.Cache()
        self._client = cast("api.Api", self.server)
        for name in ("shop", "bank"):
            labels = {namespace_mapping.LABEL: DYNAKUBE, "kubernetes.io/metadata.name": name}
            self.observed.namespaces[name] = cache.Namespace(labels, terminating=False)
        self.obj: dict[str, Any] = {
            "apiVersion": "dynatrace.com/v1beta6",
            "kind": "DynaKube",
            "metadata": {"name": DYNAKUBE, "namespace": "dynatrace", "uid": "u", "generation": 1},
            "spec": {
                "apiUrl": "https://abc12345.live.example/api",
                "oneAgent": {"applicationMonitoring": {"useCSIDriver": False}},
            },
        }
        self.start(names)

    def start(self, names: tuple[str, ...]) -> None:
        """A new operator, which knows nothing of what was written."""

        async def leave(namespace: str) -> None:
            await self.reconciler.secrets.remove_secret(self._client, namespace)

        self.mapper = NamespaceMapper(self._client, self.observed, lambda _name: None, leave)
        self.reconciler = pull_secret.PullSecrets(self.mapper, names)
        self.mapper.load({DYNAKUBE: namespace_mapping.claim(self.obj, "dynatrace")})

    def put(self, name: str, **auths: str) -> None:
        text = json.dumps({"auths": {host: {"auth": auth} for host, auth in auths.items()}})
        self.server.objects["dynatrace", name] = {"data": {".dockerconfigjson": b64encode(text.encode()).decode()}}

    def _context(self) -> ReconcileContext:
        kube = dynakube.from_object(self.obj)
        return ReconcileContext(self.obj, kube, "dynatrace", self._client, self.observed, TenantState(), 1000.0, {})

    def reconcile(self) -> reconcile_result.ReconcileResult | None:
        result = asyncio.run(self.reconciler.reconcile(self._context()))
        conditions = [{"type": self.reconciler.condition}] if result is not None else []
        self.obj["status"] = {"conditions": conditions}
        return result

    def finalize(self) -> None:
        asyncio.run(self.reconciler.finalize(self._context()))

    def copies(self) -> dict[str, Any]:
        """By namespace, the credentials."""
        found = {}
        for (namespace, name), secret in self.server.objects.items():
            if name == COPY:
                assert secret["type"] == "kubernetes.io/dockerconfigjson"
                found[namespace] = json.loads(b64decode(secret["data"][".dockerconfigjson"]))["auths"]
        return found


@pytest.fixture
def world() -> World:
    world = World()
    world.put("first", **{"registry.example.com": "a"})
    world.put("second", **{"mirror.example.com": "b", "registry.example.com": "no"})
    return world


CREDENTIALS = {"registry.example.com": {"auth": "a"}, "mirror.example.com": {"auth": "b"}}


def test_each_namespace_has_the_credentials_of_all_secrets(world: World) -> None:
    result = world.reconcile()
    assert result is not None
    assert (result.reason, result.message) == (pull_secret.READY, "namespaces with the pull Secret: 2")
    assert world.copies() == {"shop": CREDENTIALS, "bank": CREDENTIALS}


def test_a_changed_secret_is_copied_again_and_an_unchanged_one_is_not(world: World) -> None:
    world.reconcile()
    world.reconcile()
    assert world.server.writes == 2
    world.put("second", **{"mirror.example.com": "c"})
    world.reconcile()
    assert world.copies()["bank"]["mirror.example.com"] == {"auth": "c"}


def test_a_namespace_that_is_no_longer_monitored_loses_it(world: World) -> None:
    world.reconcile()
    asyncio.run(world.reconciler.secrets.remove_secret(cast("api.Api", world.server), "bank"))
    assert list(world.copies()) == ["shop"]


def test_a_deleted_dynakube_takes_them_away(world: World) -> None:
    world.reconcile()
    world.finalize()
    assert world.copies() == {}


@pytest.mark.parametrize("restarted", [True, False])
def test_with_csi_there_are_none_any_more(world: World, restarted: bool) -> None:
    world.reconcile()
    if restarted:
        world.start(("first", "second"))
    del world.obj["spec"]["oneAgent"]["applicationMonitoring"]["useCSIDriver"]
    world.observed.csi_installed = True
    assert world.reconcile() is None
    assert world.copies() == {}


def test_they_go_when_the_chart_names_none_any_more(world: World) -> None:
    world.reconcile()
    world.start(())
    assert world.reconcile() is None
    assert world.copies() == {}


@pytest.mark.parametrize(("enriches", "expected"), [(True, {"shop", "bank"}), (False, set())])
def test_metadata_files_need_the_init_container_too(world: World, enriches: bool, expected: set[str]) -> None:
    world.obj["spec"] |= {"oneAgent": {"classicFullStack": {}}, "metadataEnrichment": {"enabled": enriches}}
    world.reconcile()
    assert world.copies().keys() == expected


@pytest.mark.parametrize("data", [None, {}, {".dockerconfigjson": "bm9uZQ=="}, {".dockerconfigjson": "e30="}])
def test_a_secret_that_is_missing_or_of_another_kind_is_named(world: World, data: dict[str, str] | None) -> None:
    if data is None:
        del world.server.objects["dynatrace", "second"]
    else:
        world.server.objects["dynatrace", "second"] = {"data": data}
    result = world.reconcile()
    assert result is not None
    assert result.reason == pull_secret.UNUSABLE
    assert "Secret second in the namespace dynatrace" in result.message
