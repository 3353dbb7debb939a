"""Namespaces belong to the DynaKube that selects them: the first, if several do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from oneagent.common.dynakube import namespace_mapping
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Tenant

NEWER: Final = "1.278.0.20231014-094321"


def test_two_tenants_share_a_cluster(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, tmp_path: Path
) -> None:
    with Tenant(host=Node.address, tenant="other123", token="dt0c01.OTHER.TOKEN") as other:
        other.release(NEWER, packages.build(tmp_path / "newer.zip", NEWER))
        apply(dynakubes.namespace("two-a", "a"), dynakubes.namespace("two-b", "b"), dynakubes.namespace("two-c", "c"))
        apply(dynakubes.dynakube("first", tenant.api_url, "a"), dynakubes.secret("first", tenant.token))
        apply(dynakubes.dynakube("second", other.api_url, "b"), dynakubes.secret("second", other.token))
        dynakube_reader.wait_owners("two-", {"two-a": "first", "two-b": "second", "two-c": ""})
        dynakube_reader.wait_condition("first", "Ready", "True")
        dynakube_reader.wait_condition("second", "Ready", "True")
        assert dynakube_reader.status("first")["codeModules"]["version"] == packages.VERSION
        assert dynakube_reader.status("second")["codeModules"]["version"] == NEWER


def test_labels_follow_selectors_and_namespaces(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader
) -> None:
    apply(dynakubes.namespace("move-a", "a"), dynakubes.namespace("move-b", "b"))
    apply(dynakubes.dynakube("move", tenant.api_url, "a"), dynakubes.secret("move", tenant.token))
    dynakube_reader.wait_owners("move-", {"move-a": "move", "move-b": ""})
    apply(dynakubes.dynakube("move", tenant.api_url, "b"))
    dynakube_reader.wait_owners("move-", {"move-a": "", "move-b": "move"})
    apply(dynakubes.namespace("move-a", "b"))
    dynakube_reader.wait_owners("move-", {"move-a": "move", "move-b": "move"})
    apply(dynakubes.dynakube("move", tenant.api_url, "b", "hostMonitoring"))
    dynakube_reader.wait_owners("move-", {"move-a": "", "move-b": ""})


def test_of_two_that_match_the_first_keeps_the_namespace_and_both_are_told(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    apply(dynakubes.namespace("both-1", "x"))
    apply(dynakubes.dynakube("old", tenant.api_url, "x"), dynakubes.secret("old", tenant.token))
    dynakube_reader.wait_owners("both-", {"both-1": "old"})
    apply(dynakubes.dynakube("late", tenant.api_url, "x"), dynakubes.secret("late", tenant.token))
    dynakube_reader.wait_condition("late", "NamespaceMapping", "False", "both-1 (owner: DynaKube old)")
    assert dynakube_reader.owners("both-") == {"both-1": "old"}
    kubectl("-n", NAMESPACE, "delete", "dynakube", "old")
    dynakube_reader.wait_owners("both-", {"both-1": "late"})
    dynakube_reader.wait_condition("late", "NamespaceMapping", "True")


def test_who_removes_the_label_gets_it_back_and_ignored_namespaces_never_have_it(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    apply(dynakubes.namespace("back-1", "bk"), dynakubes.namespace("kube-back-1", "bk"))
    apply(dynakubes.dynakube("back", tenant.api_url, "bk"), dynakubes.secret("back", tenant.token))
    dynakube_reader.wait_owners("back-", {"back-1": "back"})
    kubectl("label", "namespace", "back-1", f"{namespace_mapping.LABEL}-")
    dynakube_reader.wait_owners("back-", {"back-1": "back"})
    assert dynakube_reader.owners("kube-back-") == {"kube-back-1": ""}
