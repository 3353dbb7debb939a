"""The Secrets of namespaces without CSI, against a double of the API server."""

from __future__ import annotations

import asyncio
import copy
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.agents.oneagent.ruxitagentproc import Property
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.injection import secret
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, cache, reconcile_result
from oneagent.operator.certificates import x509
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcilers import injection_secret

AUTHORITY = "oneagent-webhook-ca"
DYNAKUBE = DynaKubeName("demo")
HOUR = 3600.0


class Server:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Any] = {}
        self.writes = 0

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> Any:
        return copy.deepcopy(self.objects.get((namespace, name)))

    async def apply(self, resource: api.Resource, whole: Mapping[str, Any]) -> Any:
        self.writes += 1
        self.objects[whole["metadata"]["namespace"], whole["metadata"]["name"]] = copy.deepcopy(dict(whole))

    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None:
        self.objects.pop((namespace, name), None)


class Harness:
    """A DynaKube without CSI that has two namespaces."""

    def __init__(self, package_url: str = "https://oneagent-operator.dynatrace.svc:8443") -> None:
        self.server, self.observed = Server(), cache.Cache()
        client = cast("api.Api", self.server)

        async def leave(namespace: str) -> None:
            await self.concern.secrets.remove_secret(client, namespace)

        self.mapper = NamespaceMapper(client, self.observed, lambda _name: None, leave)
        self.concern = injection_secret.InjectionSecrets(self.mapper, package_url, AUTHORITY)
        for name in ("shop", "bank"):
            labels = {namespace_mapping.LABEL: DYNAKUBE, "kubernetes.io/metadata.name": name}
            self.observed.namespaces[name] = cache.Namespace(labels, terminating=False)
        self.manifest: dict[str, Any] = {
            "apiVersion": "dynatrace.com/v1beta6",
            "kind": "DynaKube",
            "metadata": {"name": DYNAKUBE, "namespace": "dynatrace", "uid": "u", "generation": 1},
            "spec": {
                "apiUrl": "https://abc12345.live.example/api",
                "oneAgent": {"hostGroup": "shops", "applicationMonitoring": {"useCSIDriver": False}},
                "proxy": {"value": "http://proxy.example:3128"},
            },
        }
        self.mapper.load({DYNAKUBE: namespace_mapping.claim(self.manifest, "dynatrace")})
        self.tenant_state = TenantState(
            polled_at=1.0,
            tenant=TenantId("abc12345"),
            tenant_token="dt0a01.agents",
            endpoints=("https://ag.example",),
            complete=True,
            properties=(Property("general", "key", "a value"),),
        )

    def publish(self, *authorities: x509.Pair) -> None:
        """The CA's Secret with the newest authority, and those before it."""
        (current, *former) = authorities
        data = {
            "ca.crt": current.certificate.pem,
            "ca.key": current.key_pem,
            "ca.crt.old": x509.bundle(one.certificate for one in former),
        }
        manifest = {
            "metadata": {"name": AUTHORITY},
            "data": {key: b64encode(pem).decode() for key, pem in data.items()},
        }
        self.server.objects["dynatrace", AUTHORITY] = manifest

    def reconcile(self) -> reconcile_result.ReconcileResult | None:
        found = {"CodeModulesVersion": reconcile_result.ok("", "", codeModules={"version": "1.277.0.20230914-094321"})}
        kube, client = dynakube.from_object(self.manifest), cast("api.Api", self.server)
        context = ReconcileContext(
            self.manifest, kube, "dynatrace", client, self.observed, self.tenant_state, 1000.0, found
        )
        return asyncio.run(self.concern.reconcile(context))

    def injection(self, namespace: str) -> secret.Injection:
        return secret.decode(self.text(namespace))

    def text(self, namespace: str) -> bytes:
        return b64decode(self.server.objects[namespace, "oneagent-injection"]["data"]["injection.json"])


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture(scope="module")
def authorities() -> list[x509.Pair]:
    return [x509.new_authority(1_750_000_000.0, 24 * HOUR, 0.0) for _ in range(2)]


def test_each_namespace_gets_all_that_its_pods_need(harness: Harness, authorities: list[x509.Pair]) -> None:
    harness.publish(authorities[0])
    verdict = harness.reconcile()
    assert verdict is not None
    assert verdict.reason == injection_secret.READY
    assert harness.injection("shop") == harness.injection("bank")
    assert harness.injection("shop") == secret.Injection(
        dynakube="demo",
        tenant="abc12345",
        tenant_token="dt0a01.agents",
        endpoints=("https://ag.example",),
        version="1.277.0.20230914-094321",
        package_url="https://oneagent-operator.dynatrace.svc:8443",
        package_ca=authorities[0].certificate.pem.decode(),
        technologies=("all",),
        host_group="shops",
        proxy="http://proxy.example:3128",
        properties=(("general", "key", "a value"),),
    )


def test_the_key_of_the_authority_stays_where_it_is(harness: Harness, authorities: list[x509.Pair]) -> None:
    harness.publish(*authorities)
    harness.reconcile()
    assert b"PRIVATE KEY" not in harness.text("shop")


def test_another_authority_is_published_once_and_with_the_one_before(
    harness: Harness, authorities: list[x509.Pair]
) -> None:
    old, new = authorities
    harness.publish(old)
    harness.reconcile()
    harness.reconcile()
    assert harness.server.writes == 2
    harness.publish(new, old)
    harness.reconcile()
    assert harness.server.writes == 4
    assert harness.injection("bank").package_ca == (new.certificate.pem + old.certificate.pem).decode()


def test_secrets_that_a_restore_of_the_cluster_lost_are_written_again(
    harness: Harness, authorities: list[x509.Pair]
) -> None:
    harness.publish(authorities[0])
    harness.reconcile()
    del harness.server.objects["shop", "oneagent-injection"]
    harness.concern.secrets.forget_written()
    harness.reconcile()
    assert harness.injection("shop") == harness.injection("bank")


def test_before_there_is_an_authority_nothing_is_written(harness: Harness) -> None:
    verdict = harness.reconcile()
    assert verdict is not None
    assert (verdict.reason, harness.server.writes) == (injection_secret.NO_AUTHORITY, 0)
    assert AUTHORITY in verdict.message


def test_an_operator_that_serves_no_packages_needs_no_authority() -> None:
    harness = Harness(package_url="")
    verdict = harness.reconcile()
    assert verdict is not None
    assert verdict.reason == injection_secret.READY
    assert (harness.injection("shop").package_url, harness.injection("shop").package_ca) == ("", "")


def test_with_csi_a_namespace_holds_nothing(harness: Harness, authorities: list[x509.Pair]) -> None:
    harness.publish(authorities[0])
    harness.reconcile()
    harness.manifest["spec"]["oneAgent"]["applicationMonitoring"]["useCSIDriver"] = True
    harness.observed.csi_installed = True
    verdict = harness.reconcile()
    assert verdict is not None
    assert verdict.reason == injection_secret.BY_CSI
    assert [key for key in harness.server.objects if key[1] == injection_secret.NAME] == []
