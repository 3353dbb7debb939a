"""The Role by which nodes read what DynaKubes name, against a double of the API server."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube.network_defaults import NetworkDefaults
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes.errors import ConflictError, ForbiddenError, UnavailableError
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcilers import node_access
from tests.fakes.object_api import Objects
from tests.fakes.provisioner import manifest

NAMESPACE = "dynatrace"
URL = "https://abc12345.live.dynatrace.com/api"


class Harness:
    def __init__(self) -> None:
        self.server, self.cache = Objects(), Cache(csi_installed=True)
        self.server.put("Role", {"metadata": {"name": node_access.ROLE, "namespace": NAMESPACE}})
        self.restart()

    def restart(self) -> None:
        self.access = node_access.NodeAccess(cast("api.Api", self.server), NAMESPACE, self.cache)

    def put(self, name: str, *, age: int = 0, **spec: Any) -> None:
        """Create or change a DynaKube, as the watch shows it; greater ages are older."""
        obj = manifest(name, URL, **spec)
        obj["metadata"]["creationTimestamp"] = f"20{90 - age}-01-01T00:00:00Z"
        self.cache.dynakubes[DynaKubeName(name)] = obj

    def reconcile(self, name: str) -> reconcile_result.ReconcileResult | None:
        return asyncio.run(self.access.reconcile(self._context(name)))

    def grant(self, name: str, **spec: Any) -> reconcile_result.ReconcileResult | None:
        self.put(name, **spec)
        return self.reconcile(name)

    def delete(self, name: str) -> None:
        asyncio.run(self.access.finalize(self._context(name)))
        del self.cache.dynakubes[DynaKubeName(name)]

    def resync(self) -> float:
        return asyncio.run(self.access.resync())

    @property
    def rules(self) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = self.server.stored["Role", NAMESPACE, node_access.ROLE].get("rules") or []
        return rules

    @property
    def readable(self) -> dict[str, list[str]]:
        """The names that nodes may read, by resource, without the answers of tenants."""
        for rule in self.rules:
            assert rule["resourceNames"], "a rule without names is for all"
            assert (rule["apiGroups"], rule["verbs"]) == ([""], ["get"])
        return {
            rule["resources"][0]: [name for name in rule["resourceNames"] if not name.endswith(".tenant-config")]
            for rule in self.rules
        }

    @property
    def answers(self) -> list[str]:
        """The DynaKubes whose tenant's answers nodes may read."""
        names = [name for rule in self.rules for name in rule["resourceNames"]]
        return [name.removesuffix(".tenant-config") for name in names if name.endswith(".tenant-config")]

    @property
    def writes(self) -> int:
        return sum(call[0] == "merge" for call in self.server.calls)

    def _context(self, name: str) -> ReconcileContext:
        obj = self.cache.dynakubes[DynaKubeName(name)]
        client = cast("api.Api", self.server)
        return ReconcileContext(obj, dynakube.from_object(obj), NAMESPACE, client, self.cache, TenantState(), 1.0, {})


@pytest.fixture
def cluster() -> Harness:
    return Harness()


def test_the_role_has_exactly_what_dynakubes_name(cluster: Harness) -> None:
    result = cluster.grant("shop", customPullSecret="pull", trustedCAs="authorities")
    assert result is not None
    assert (result.status, result.reason) == ("True", node_access.GRANTED)
    cluster.grant("bank", tokens="vault", proxy={"valueFrom": "proxy"}, annotations={"code-modules-image-key": "keys"})
    assert cluster.readable == {"secrets": ["keys", "proxy", "pull", "shop", "vault"], "configmaps": ["authorities"]}


def test_nodes_read_the_answers_of_the_tenants_of_dynakubes_with_views(cluster: Harness) -> None:
    cluster.grant("shop")
    cluster.grant("bank", mode="hostMonitoring")
    assert cluster.answers == ["shop"]


def test_nodes_read_the_proxy_and_authorities_of_dynakubes_that_name_none(cluster: Harness) -> None:
    defaults = NetworkDefaults(proxy_secret="company-proxy", trusted_cas="company")
    cluster.access = node_access.NodeAccess(cast("api.Api", cluster.server), NAMESPACE, cluster.cache, defaults)
    cluster.put("shop")
    cluster.put("cart", proxy={"valueFrom": "own"}, trustedCAs="own")
    # After a restart the operator reads all of them, before any is reconciled.
    cluster.resync()
    assert cluster.readable == {
        "secrets": ["cart", "company-proxy", "own", "shop"],
        "configmaps": ["company", "own"],
    }


def test_a_change_is_written_at_once_and_nothing_is_written_twice(cluster: Harness) -> None:
    cluster.grant("shop", tokens="old", trustedCAs="authorities")
    for _ in range(3):
        cluster.reconcile("shop")
    assert cluster.writes == 1
    cluster.grant("shop", tokens="new")
    assert cluster.readable == {"secrets": ["new"]}
    assert cluster.writes == 2


def test_what_a_deleted_dynakube_named_is_revoked_before_it_is_gone(cluster: Harness) -> None:
    cluster.grant("shop", tokens="shared", customPullSecret="pull")
    cluster.grant("bank", tokens="shared")
    cluster.delete("shop")
    assert cluster.readable == {"secrets": ["shared"]}
    cluster.delete("bank")
    assert cluster.rules == []


def test_a_deletion_does_not_wait_for_the_role(cluster: Harness) -> None:
    cluster.grant("shop")

    def fail(verb: str, _kind: str, _name: str) -> None:
        if verb == "merge":
            raise UnavailableError("503")

    cluster.server.before = fail
    cluster.delete("shop")
    assert cluster.resync() < 60
    cluster.server.before = lambda *_call: None
    cluster.resync()
    assert cluster.rules == []


@pytest.mark.parametrize("mode", ["hostMonitoring", "classicFullStack"])
def test_dynakubes_without_views_have_nothing_read_by_nodes(cluster: Harness, mode: str) -> None:
    cluster.grant("shop")
    assert cluster.grant("shop", mode=mode) is None
    assert cluster.rules == []


def test_without_the_driver_the_role_is_left_alone(cluster: Harness) -> None:
    cluster.cache.csi_installed = False
    assert cluster.grant("shop") is None
    cluster.resync()
    assert cluster.server.calls == []


def test_after_a_restart_the_first_dynakube_takes_no_access_from_others(cluster: Harness) -> None:
    cluster.grant("shop")
    cluster.grant("bank")
    cluster.restart()
    cluster.reconcile("shop")
    assert cluster.readable == {"secrets": ["bank", "shop"]}


def test_names_left_from_before_a_restart_are_revoked(cluster: Harness) -> None:
    cluster.grant("shop")
    del cluster.cache.dynakubes[DynaKubeName("shop")]
    cluster.restart()
    cluster.resync()
    assert cluster.rules == []


def test_changes_by_others_are_undone(cluster: Harness) -> None:
    cluster.grant("shop")
    everything = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    cluster.server.stored["Role", NAMESPACE, node_access.ROLE]["rules"] = everything
    assert cluster.resync() <= 300
    assert cluster.readable == {"secrets": ["shop"]}


def test_an_invalid_dynakube_breaks_nothing_for_others_and_keeps_its_last_names(cluster: Harness) -> None:
    cluster.grant("shop")
    cluster.cache.dynakubes[DynaKubeName("shop")]["spec"]["tokens"] = "oneagent-webhook-ca"
    cluster.grant("bank")
    cluster.resync()
    assert cluster.readable == {"secrets": ["bank", "shop"]}
    cluster.restart()
    cluster.reconcile("bank")
    assert cluster.readable == {"secrets": ["bank"]}


def test_a_role_that_is_missing_is_told_of_with_the_remedy(cluster: Harness) -> None:
    cluster.server.remove("Role", node_access.ROLE, NAMESPACE)
    result = cluster.grant("shop")
    assert result is not None
    assert result.reason == node_access.NOT_MANAGED
    assert node_access.ROLE in result.message and "apply the manifests" in result.message
    assert 0 < (result.requeue_seconds or 0) <= 60
    cluster.resync()
    cluster.server.put("Role", {"metadata": {"name": node_access.ROLE, "namespace": NAMESPACE}})
    result = cluster.reconcile("shop")
    assert result is not None and result.reason == node_access.GRANTED


def test_with_the_manifests_of_an_older_version_a_dynakube_is_ready_all_the_same(cluster: Harness) -> None:
    def refuse(_verb: str, _kind: str, _name: str) -> None:
        raise ForbiddenError("403")

    cluster.server.before = refuse
    result = cluster.grant("shop")
    assert result is not None
    assert (result.status, result.reason) == ("True", node_access.NOT_MANAGED)
    assert "403" in result.message


def test_a_failed_write_is_repeated(cluster: Harness) -> None:
    def fail(verb: str, _kind: str, _name: str) -> None:
        if verb == "merge":
            raise ConflictError("409")

    cluster.server.before = fail
    with pytest.raises(ConflictError):
        cluster.grant("shop")
    cluster.server.before = lambda *_call: None
    cluster.reconcile("shop")
    assert cluster.readable == {"secrets": ["shop"]}


def test_the_number_of_names_is_bounded_and_older_dynakubes_keep_theirs(cluster: Harness) -> None:
    for number in range(node_access.MAX_NAMES // 2):
        cluster.put(f"old-{number}", age=1)
    result = cluster.grant("new")
    assert result is not None
    assert (result.status, result.reason) == ("False", node_access.FULL)
    assert f"{node_access.MAX_NAMES} names" in result.message
    assert len(cluster.readable["secrets"]) + len(cluster.answers) == node_access.MAX_NAMES
    assert "new" not in cluster.readable["secrets"]
    cluster.delete("old-0")
    assert "new" in cluster.readable["secrets"]
    assert "new" in cluster.answers
