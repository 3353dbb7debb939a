"""Which version of the host agent is decided, and when it moves on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube.api import conversion
from oneagent.common.dynakube.api.versions import NEWEST
from oneagent.common.identifiers import Version
from oneagent.common.oci import reference
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcilers import versions

OLD, NEW = "1.277.0.20230914-094321", "1.278.0.20231014-094321"


def decided(manifest: dict[str, Any], *, chosen: str = "", latest: str = NEW) -> Any:
    """The version of `status.oneAgent`, from what it was and what the tenant offers."""
    if chosen:
        manifest["status"] = {"oneAgent": {"version": chosen, "source": versions.TENANT}}
    return reconciled(manifest, versions.HostAgent(), latest).fields["oneAgent"]["version"]


def reconciled(
    manifest: dict[str, Any], concern: versions.HostAgent | versions.CodeModules, latest: str = NEW
) -> reconcile_result.ReconcileResult:
    context = ReconcileContext(
        obj=manifest,
        dynakube=dynakube.from_object(manifest),
        namespace="dynatrace",
        # No version is decided by what is in the cluster.
        api=cast("api.Api", None),
        cache=Cache(),
        tenant_state=TenantState(latest=Version(latest)),
        now=0.0,
        results={},
    )
    reconcile = asyncio.run(concern.reconcile(context))
    assert reconcile is not None
    return reconcile


def in_version(api_version: str, *, auto_update: bool | None, **section: str) -> dict[str, Any]:
    """A DynaKube that somebody wrote in this version, as the operator reads it."""
    own: dict[str, Any] = {**section, **({} if auto_update is None else {"autoUpdate": auto_update})}
    written = {
        "apiVersion": f"dynatrace.com/{api_version}",
        "kind": "DynaKube",
        "metadata": {"name": "one", "namespace": "dynatrace"},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {"classicFullStack": own}},
    }
    return conversion.convert(written, f"dynatrace.com/{NEWEST}")


def test_an_image_in_a_folder_is_what_the_nodes_find_there_whatever_version_is_pinned() -> None:
    written = in_version("v1beta5", auto_update=None)
    image = {"codeModulesImage": "oci-layout:/data/agent:1", "codeModulesVersion": OLD}
    written["spec"]["oneAgent"] = {"applicationMonitoring": image}
    reconcile = reconciled(written, versions.CodeModules())
    assert reconcile.fields["codeModules"]["version"] is None
    assert (reconcile.reason, reconcile.fields["codeModules"]["imageID"]) == (
        versions.DECIDED,
        "oci-layout:/data/agent:1",
    )


@pytest.mark.parametrize("auto_update", [None, True])
def test_the_tenants_latest_is_followed(auto_update: bool | None) -> None:
    assert decided(in_version("v1beta5", auto_update=auto_update), chosen=OLD) == NEW


def test_without_automatic_update_a_version_stays_once_it_is_chosen() -> None:
    assert decided(in_version("v1beta5", auto_update=False), chosen=OLD) == OLD


def test_without_automatic_update_the_first_version_is_still_the_tenants_latest() -> None:
    assert decided(in_version("v1beta1", auto_update=False)) == NEW


def test_without_automatic_update_a_pinned_version_moves() -> None:
    assert decided(in_version("v1beta5", auto_update=False, version=NEW), chosen=OLD) == NEW


NAME = "registry.example/agent:1"
ONE, TWO = (f"{NAME}@sha256:{digit * 64}" for digit in "12")
ELSEWHERE = f"registry.example/other:1@sha256:{'3' * 64}"


class TestAnImage:
    def reconcile(self, found: ImageState, decided: str = "", name: str = NAME) -> reconcile_result.ReconcileResult:
        manifest: dict[str, Any] = {
            "apiVersion": f"dynatrace.com/{NEWEST}",
            "kind": "DynaKube",
            "metadata": {"name": "one", "namespace": "dynatrace"},
            "spec": {
                "apiUrl": "https://abc12345.live.dynatrace.com/api",
                "oneAgent": {"applicationMonitoring": {"codeModulesImage": name}},
            },
            "status": {"codeModules": {"imageID": decided, "source": versions.IMAGE}} if decided else {},
        }
        kube = dynakube.from_object(manifest)
        facts = TenantState(latest=Version(NEW), image=found)
        context = ReconcileContext(manifest, kube, "dynatrace", cast("api.Api", None), Cache(), facts, 0.0, {})
        result = asyncio.run(versions.CodeModules().reconcile(context))
        assert result is not None
        return result

    def followed(self, text: str = "", problem: str = "", name: str = NAME) -> ImageState:
        return ImageState(name, reference.parse(text) if text else None, problem=problem)

    def test_is_decided_by_its_digest(self) -> None:
        result = self.reconcile(self.followed(ONE), decided=TWO)
        assert result.status == "True"
        assert (result.fields["codeModules"]["imageID"], result.fields["codeModules"]["version"]) == (ONE, None)

    def test_stays_and_says_why_if_the_newest_cannot_be_followed(self) -> None:
        result = self.reconcile(self.followed(ONE, "it is not signed"))
        assert (result.status, result.reason) == ("False", versions.NOT_FOLLOWED)
        assert result.message == f"{ONE} stays in use: it is not signed"
        assert result.fields["codeModules"]["imageID"] == ONE

    def test_stays_what_an_earlier_operator_has_decided_while_nothing_can_be_told(self) -> None:
        result = self.reconcile(self.followed(problem="cannot connect"), decided=TWO)
        assert result.fields["codeModules"]["imageID"] == TWO

    def test_is_left_to_nodes_if_nothing_was_decided_for_this_name(self) -> None:
        result = self.reconcile(self.followed(problem="cannot connect"), decided=ELSEWHERE)
        assert result.status == "False"
        assert result.fields["codeModules"]["imageID"] is None
        assert result.message == "each node resolves the image itself: cannot connect"

    def test_is_waited_for_while_the_registry_was_not_asked_about_this_name(self) -> None:
        result = self.reconcile(self.followed(ONE, name="registry.example/agent:0"), decided=TWO)
        assert (result.status, dict(result.fields)) == ("Unknown", {})


def test_a_version_without_the_builds_time_pins_nothing() -> None:
    """Old API versions accept it."""
    assert decided(in_version("v1beta1", auto_update=None, version="1.277.0"), chosen=OLD) == NEW
