"""The Secret with the tenant's answers for nodes, against a double of the API server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube.tenant_config import CONDITION, FIELD
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers import tenant_config
from tests.fakes.object_api import Objects
from tests.fakes.provisioner import manifest

NAMESPACE = "dynatrace"
URL = "https://abc12345.example/api"
NAME = tenant_secret.name(DynaKubeName("shop"))
ANSWERS = TenantState(
    polled_at=1.0,
    questions=(URL, "", ""),
    tenant=TenantId("abc12345"),
    tenant_token="dt0a01.agents",
    endpoints=("https://ag.example",),
    complete=True,
)


class Harness:
    def __init__(self) -> None:
        self.server, self.cache = Objects(), Cache(csi_installed=True)
        self.manifest = manifest("shop", URL)
        self.state = TenantState()

    def reconcile(self) -> ReconcileResult | None:
        """Reconcile, and keep in the DynaKube's status what came of it, as the status writer does."""
        result = asyncio.run(tenant_config.TenantConfiguration().reconcile(self._context()))
        status = self.manifest["status"]
        status["conditions"] = []
        if result is not None:
            status["conditions"] = [{"type": CONDITION, "status": result.status, "message": result.message}]
            status.setdefault("codeModules", {}).update(result.fields.get("codeModules", {}))
        return result

    def on_node(self) -> dynakube.tenant_config.TenantConfig | None:
        return dynakube.from_object(self.manifest).tenant_config

    def finalize(self) -> None:
        asyncio.run(tenant_config.TenantConfiguration().finalize(self._context()))

    @property
    def secret(self) -> api.Object | None:
        return self.server.stored.get(("Secret", NAMESPACE, NAME))

    def answers(self) -> TenantState:
        assert self.secret is not None
        return tenant_secret.decode(tenant_secret.unpack(api.decode_data(self.secret)))

    @property
    def writes(self) -> int:
        return sum(verb == "apply" for verb, *_ in self.server.calls)

    def _context(self) -> ReconcileContext:
        obj, client = self.manifest, cast("api.Api", self.server)
        kube = dynakube.from_object(obj)
        return ReconcileContext(obj, kube, NAMESPACE, client, self.cache, self.state, 1.0, {})


@pytest.fixture
def cluster() -> Harness:
    return Harness()


def test_nodes_know_at_once_that_the_operator_asks_for_them(cluster: Harness) -> None:
    result = cluster.reconcile()
    assert result is not None and result.status == "Unknown"
    config = cluster.on_node()
    assert config is not None and config.is_pending and not config.digest
    assert cluster.secret is None


def test_answers_are_in_the_secret_and_their_digest_in_the_status(cluster: Harness) -> None:
    cluster.state = ANSWERS
    result = cluster.reconcile()
    assert result is not None and (result.status, result.reason) == ("True", tenant_config.READY)
    assert cluster.answers() == replace(ANSWERS, polled_at=0.0)
    config = cluster.on_node()
    assert config is not None and config.digest == tenant_secret.digest(tenant_secret.encode(ANSWERS))
    secret = cluster.secret
    assert secret is not None
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("DynaKube", "shop", "uid-shop")
    assert "blockOwnerDeletion" not in owner


def test_equal_answers_are_written_once_and_others_again(cluster: Harness) -> None:
    cluster.state = ANSWERS
    for polled_at in (1.0, 2.0, 3.0):
        cluster.state = replace(ANSWERS, polled_at=polled_at)
        cluster.reconcile()
    assert cluster.writes == 1
    before = cluster.on_node()
    cluster.state = replace(ANSWERS, tenant_token="dt0a01.renewed")
    cluster.reconcile()
    assert cluster.writes == 2
    assert cluster.answers().tenant_token == "dt0a01.renewed"
    assert cluster.on_node() != before


def test_what_the_tenant_answers_instead_is_what_nodes_say(cluster: Harness) -> None:
    cluster.state = TenantState(polled_at=1.0, problem="abc12345.example answered 429", failures=1)
    result = cluster.reconcile()
    assert result is not None and (result.status, result.reason) == ("False", tenant_config.NOT_KNOWN)
    config = cluster.on_node()
    assert config is not None and "answered 429" in config.reason and not config.is_pending
    assert cluster.secret is None


def test_a_zone_without_an_endpoint_gives_no_answers(cluster: Harness) -> None:
    cluster.state = TenantState(polled_at=1.0, no_endpoint=True, network_zone="eu")
    result = cluster.reconcile()
    assert result is not None and result.status == "False"
    assert "no endpoint for spec.networkZone 'eu'" in result.message


def test_answers_outlive_an_outage_of_the_tenant_and_a_restart_of_the_operator(cluster: Harness) -> None:
    cluster.state = ANSWERS
    cluster.reconcile()
    before = cluster.on_node()
    cluster.state = replace(ANSWERS, problem="cannot connect", failures=3)
    cluster.reconcile()
    assert cluster.on_node() == before
    cluster.state = TenantState(polled_at=9.0, problem="cannot connect", failures=1)
    result = cluster.reconcile()
    assert result is not None and result.status == "True"
    assert cluster.on_node() == before
    assert cluster.writes == 1


@pytest.mark.parametrize("change", [{"apiUrl": "https://other.example/api"}, {"networkZone": "eu"}])
def test_answers_to_former_questions_are_not_handed_out(cluster: Harness, change: dict[str, Any]) -> None:
    cluster.state = ANSWERS
    cluster.reconcile()
    cluster.manifest["spec"] |= change
    result = cluster.reconcile()
    assert result is not None and result.status == "Unknown"
    config = cluster.on_node()
    assert config is not None and not config.digest
    assert cluster.writes == 1
    kube = dynakube.from_object(cluster.manifest)
    cluster.state = replace(ANSWERS, questions=kube.tenant_questions)
    result = cluster.reconcile()
    assert result is not None and result.status == "True"
    assert cluster.writes == 2


def test_a_secret_that_was_changed_or_deleted_is_written_again(cluster: Harness) -> None:
    cluster.state = ANSWERS
    cluster.reconcile()
    assert cluster.secret is not None
    cluster.secret["data"] = {}
    cluster.reconcile()
    assert cluster.answers().tenant_token == ANSWERS.tenant_token
    cluster.server.remove("Secret", NAME, NAMESPACE)
    cluster.reconcile()
    assert cluster.answers().tenant_token == ANSWERS.tenant_token


def test_a_dynakube_that_was_created_again_owns_its_secret(cluster: Harness) -> None:
    cluster.state = ANSWERS
    cluster.reconcile()
    cluster.manifest["metadata"]["uid"] = "another"
    cluster.reconcile()
    assert cluster.secret is not None
    assert [owner["uid"] for owner in cluster.secret["metadata"]["ownerReferences"]] == ["another"]


def test_a_user_s_secret_of_this_name_is_left_alone(cluster: Harness) -> None:
    cluster.server.put("Secret", {"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {"own": "dXNlcg=="}})
    cluster.state = ANSWERS
    result = cluster.reconcile()
    assert result is not None and (result.status, result.reason) == ("False", tenant_config.FOREIGN)
    cluster.finalize()
    assert cluster.secret is not None and cluster.secret["data"] == {"own": "dXNlcg=="}
    assert cluster.writes == 0


def test_the_secret_goes_with_the_dynakube_and_with_its_views(cluster: Harness) -> None:
    cluster.state = ANSWERS
    cluster.reconcile()
    cluster.finalize()
    assert cluster.secret is None
    cluster.reconcile()
    cluster.manifest["spec"]["oneAgent"] = {"hostMonitoring": {}}
    assert cluster.reconcile() is None
    assert cluster.secret is None


def test_without_the_driver_or_a_tenant_there_is_none(cluster: Harness) -> None:
    cluster.state = ANSWERS
    cluster.cache.csi_installed = False
    assert cluster.reconcile() is None
    cluster.cache.csi_installed = True
    del cluster.manifest["spec"]["apiUrl"]
    cluster.manifest["spec"]["oneAgent"]["cloudNativeFullStack"]["codeModulesImage"] = "file:///agent.zip"
    assert cluster.reconcile() is None
    assert cluster.server.calls == []
    assert FIELD not in (cluster.manifest["status"].get("codeModules") or {})
