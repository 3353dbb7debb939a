"""Which version of the host agent is decided, and when it moves on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube.api import conversion, version_history
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


class TestAPublicRegistry:
    """The tenant names the images; a decision stays while the tenant is away."""

    AGENT, PACKAGE = (
        "public.ecr.aws/dynatrace/dynatrace-oneagent:1.3",
        "public.ecr.aws/dynatrace/dynatrace-codemodules:1.3",
    )
    DIGEST = f"sha256:{'1' * 64}"

    def reconcile(
        self,
        concern: versions.HostAgent | versions.CodeModules,
        *,
        offered: bool = True,
        status: dict[str, Any] | None = None,
        found: ImageState | None = None,
        csi: bool = True,
        problem: str = "",
        annotations: dict[str, str] | None = None,
        **section: str,
    ) -> reconcile_result.ReconcileResult:
        flags = {"feature.dynatrace.com/use-public-registry": "true", **(annotations or {})}
        manifest = {
            "apiVersion": f"dynatrace.com/{NEWEST}",
            "kind": "DynaKube",
            "metadata": {"name": "one", "namespace": "dynatrace", "annotations": flags},
            "spec": {
                "apiUrl": "https://abc12345.live.dynatrace.com/api",
                "oneAgent": {"cloudNativeFullStack": section},
            },
            "status": status or {},
        }
        images = {"oneagent": self.AGENT, "codemodules": self.PACKAGE} if offered else {}
        state = TenantState(
            polled_at=1.0, latest=Version(NEW), images=images, image=found or ImageState(), problem=problem
        )
        cache = Cache()
        cache.csi_installed = csi
        kube = dynakube.from_object(manifest)
        context = ReconcileContext(manifest, kube, "dynatrace", cast("api.Api", None), cache, state, 0.0, {})
        result = asyncio.run(concern.reconcile(context))
        assert result is not None
        return result

    def decided(self, section: str, image: str) -> dict[str, Any]:
        return {section: {"imageID": image, "source": versions.PUBLIC}}

    def test_has_the_image_of_host_agents(self) -> None:
        result = self.reconcile(versions.HostAgent())
        section = result.fields["oneAgent"]
        assert (section["imageID"], section["version"], section["source"]) == (self.AGENT, "1.3", "public-registry")

    def test_has_the_image_of_applications(self) -> None:
        section = self.reconcile(versions.CodeModules()).fields["codeModules"]
        assert (section["imageID"], section["version"], section["source"]) == (self.PACKAGE, None, "public-registry")

    def test_is_followed_by_digest_once_the_registry_has_named_it(self) -> None:
        by_digest = f"{self.PACKAGE}@{self.DIGEST}"
        found = ImageState(self.PACKAGE, reference.parse(by_digest))
        before = self.decided("codeModules", self.PACKAGE)
        result = self.reconcile(versions.CodeModules(), status=before, found=found)
        assert result.fields["codeModules"]["imageID"] == by_digest
        # The state still is about the tag, and the decision stays.
        after = self.reconcile(versions.CodeModules(), status=self.decided("codeModules", by_digest), found=found)
        assert after.fields["codeModules"]["imageID"] == by_digest

    def test_moves_on_when_the_tenant_names_another(self) -> None:
        before = self.decided("codeModules", f"public.ecr.aws/dynatrace/dynatrace-codemodules:1.2@{self.DIGEST}")
        assert self.reconcile(versions.CodeModules(), status=before).fields["codeModules"]["imageID"] == self.PACKAGE

    @pytest.mark.parametrize("section", ["oneAgent", "codeModules"])
    def test_stays_while_the_tenant_is_away(self, section: str) -> None:
        concern = versions.HostAgent() if section == "oneAgent" else versions.CodeModules()
        image = f"public.ecr.aws/dynatrace/old:1.2@{self.DIGEST}"
        result = self.reconcile(concern, offered=False, status=self.decided(section, image), problem="cannot connect")
        assert result.fields[section]["imageID"] == image
        assert result.fields[section]["source"] == "public-registry"

    @pytest.mark.parametrize("concern", [versions.HostAgent(), versions.CodeModules()])
    def test_is_waited_for_with_the_reason(self, concern: versions.HostAgent | versions.CodeModules) -> None:
        result = self.reconcile(concern, offered=False, problem="answered 404")
        assert (result.status, dict(result.fields)) == ("Unknown", {})
        assert result.message == "the image in the public registry is not known: answered 404"

    def test_says_why_an_image_is_not_followed(self) -> None:
        found = ImageState(self.PACKAGE, problem="cannot connect")
        before = self.decided("codeModules", self.PACKAGE)
        result = self.reconcile(versions.CodeModules(), status=before, found=found)
        assert (result.status, result.reason) == ("False", versions.NOT_FOLLOWED)
        assert result.fields["codeModules"]["imageID"] == self.PACKAGE

    def test_is_nothing_for_pods_without_csi(self) -> None:
        before = self.decided("codeModules", self.PACKAGE)
        section = self.reconcile(versions.CodeModules(), csi=False, status=before).fields["codeModules"]
        assert (section["version"], section["imageID"], section["source"]) == (NEW, None, versions.TENANT)

    def test_comes_after_images_of_the_user(self) -> None:
        own = "registry.example/agent:1"
        section = self.reconcile(versions.HostAgent(), image=own).fields["oneAgent"]
        assert (section["imageID"], section["source"]) == (own, versions.IMAGE)
        found = ImageState(own, reference.parse(f"{own}@{self.DIGEST}"))
        section = self.reconcile(versions.CodeModules(), codeModulesImage=own, found=found).fields["codeModules"]
        assert (section["imageID"], section["source"]) == (f"{own}@{self.DIGEST}", versions.IMAGE)

    def test_is_not_followed_without_automatic_update(self) -> None:
        no_update = {version_history.AUTO_UPDATE: "false"}
        before = self.decided("oneAgent", "public.ecr.aws/dynatrace/dynatrace-oneagent:1.2")
        section = self.reconcile(versions.HostAgent(), status=before, annotations=no_update).fields["oneAgent"]
        assert (section["imageID"], section["version"]) == ("public.ecr.aws/dynatrace/dynatrace-oneagent:1.2", "1.2")


class TestAPinThatIsRemoved:
    """What a pin or an image decided is no reason to stay: only the tenant's latest is followed upwards."""

    @pytest.mark.parametrize("source", [versions.PINNED, versions.IMAGE])
    @pytest.mark.parametrize("follow", [True, False])
    def test_leaves_nothing_that_a_lower_latest_version_would_be_held_against(self, source: str, follow: bool) -> None:
        known = {"version": NEW, "source": source}
        choice = versions.choose("", "", known, TenantState(latest=Version(OLD)), follow=follow)
        assert (choice.version, choice.source, choice.reason) == (OLD, versions.TENANT, versions.DECIDED)

    @pytest.mark.parametrize("source", [versions.PINNED, versions.IMAGE])
    def test_leaves_no_version_while_the_tenant_is_not_polled(self, source: str) -> None:
        choice = versions.choose("", "", {"version": NEW, "source": source}, TenantState())
        assert (choice.known, choice.reason) == (False, versions.NOT_KNOWN)

    def test_is_not_a_version_of_the_tenants_which_stays(self) -> None:
        known = {"version": NEW, "source": versions.TENANT}
        choice = versions.choose("", "", known, TenantState(latest=Version(OLD)))
        assert (choice.version, choice.reason) == (NEW, versions.OLDER_OFFERED)
