"""The desired agent versions of a DynaKube, in its status (see `desired_version`).

The tenant's latest is followed up, never down. The decision is kept in the status, so it survives a restart of the
operator and an outage of the tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common.dynakube import desired_version, public_registry
from oneagent.common.dynakube.desired_version import Follow, Origin
from oneagent.common.kubernetes import fields, types
from oneagent.common.oci import reference
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import reconcile_result
from oneagent.operator.host_agents import spec
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

DECIDED: Final = "VersionDecided"
OLDER_OFFERED: Final = "OlderVersionOffered"
NOT_KNOWN: Final = "VersionNotKnown"
NOT_FOLLOWED: Final = "ImageNotFollowed"

PINNED: Final = "custom-version"
IMAGE: Final = "custom-image"
TENANT: Final = "tenant"
PUBLIC: Final = public_registry.SOURCE


@dataclass(frozen=True, slots=True)
class Choice:
    version: str
    image: str
    source: str
    reason: str
    message: str

    @property
    def known(self) -> bool:
        return bool(self.version or self.image)


class CodeModules:
    """The version that is injected into pods, in `status.codeModules`."""

    condition = "CodeModulesVersion"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        if not context.dynakube.mode.injects:
            return None
        known = context.section("codeModules")
        if context.dynakube.uses_public_registry and not _names_image(context):
            if context.dynakube.needs_views and context.cache.csi_installed:
                return _follow_public_image(context, known)
            # Pods without CSI get the tenant's package, since the package server has no images.
            choice = choose(context.dynakube.pinned_version or "", "", known, context.tenant_state)
            return _result(choice, known, context, "codeModules")
        if context.dynakube.image is not None:
            return _follow_image(context, known)
        pinned = "" if context.dynakube.image_layout else context.dynakube.pinned_version or ""
        choice = choose(pinned, context.dynakube.package, known, context.tenant_state)
        return _result(choice, known, context, "codeModules")

    async def finalize(self, context: ReconcileContext) -> None:
        """Only the status holds it."""


class HostAgent:
    """The version of the agents on hosts, in `status.oneAgent`."""

    condition = "OneAgentVersion"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        mode = context.dynakube.mode
        if not mode.runs_on_hosts:
            return None
        pinned, image = spec.named_version(context.obj, mode), spec.named_image(context.obj, mode)
        known = context.section("oneAgent")
        if context.dynakube.uses_public_registry and not image:
            choice = _choose_public_image(context, "oneagent", known, follow=spec.has_updates(context.obj))
            return _result(choice, known, context, "oneAgent")
        choice = choose(pinned, image, known, context.tenant_state, follow=spec.has_updates(context.obj))
        return _result(choice, known, context, "oneAgent")

    async def finalize(self, context: ReconcileContext) -> None:
        """Only the status holds it."""


def choose(pinned: str, image: str, known: Mapping[str, Any], state: TenantState, *, follow: bool = True) -> Choice:
    """Choose a version; `known` is the status section of the last decision."""
    current = str(known.get("version") or "") if known.get("source") == TENANT else ""
    latest = str(state.latest or "")
    chosen = desired_version.choose(
        pinned=pinned,
        package=image,
        latest=latest,
        current=current,
        follow=Follow.UPWARDS if follow else Follow.NEVER,
    )
    version = chosen.version
    if chosen.origin is Origin.PINNED:
        return Choice(version, image, PINNED, DECIDED, f"version {version} is pinned")
    if chosen.origin is Origin.PACKAGE:
        return Choice("", image, IMAGE, DECIDED, f"the image {image} determines the version")
    if not version:
        reason = state.explain(state.problem) or "the tenant has not been polled yet"
        return Choice("", "", TENANT, NOT_KNOWN, f"the tenant's latest version is not known: {reason}")
    if chosen.older_offered:
        message = f"the tenant offers {latest}, older than {version}, which stays in use; pin {latest} to use it"
        return Choice(version, "", TENANT, OLDER_OFFERED, message)
    if version == latest:
        return Choice(version, "", TENANT, DECIDED, f"version {version} is the tenant's latest")
    return Choice(version, "", TENANT, DECIDED, f"version {version} stays in use")


def _follow_image(context: ReconcileContext, known: Mapping[str, Any]) -> ReconcileResult:
    """Decide by the image's digest; the last digest stays while the registry is unavailable."""
    kube, tenant = context.dynakube, context.tenant_state
    state = tenant.image
    if state.name != kube.package:
        return reconcile_result.pending(NOT_KNOWN, f"the image {kube.package} has not been resolved yet")
    # A decision in the status holds for the image name that it was made for.
    image = state.image or (kube.image if kube.image and kube.image.digest else None)
    message = f"the image {image} determines the version"
    choice = Choice(kube.pinned_version or "", str(image or ""), IMAGE, DECIDED, message)
    section = _status_section(choice, known, context)
    if state.problem:
        stays = f"{image} stays in use: " if image else "each node resolves the image itself: "
        return reconcile_result.failed(NOT_FOLLOWED, tenant.explain(f"{stays}{state.problem}"), codeModules=section)
    return reconcile_result.ok(choice.reason, choice.message, codeModules=section)


def _names_image(context: ReconcileContext) -> bool:
    mode = context.dynakube.mode
    return bool(fields.text(context.obj, f"spec.oneAgent.{mode}.codeModulesImage"))


def _choose_public_image(
    context: ReconcileContext, component: str, known: Mapping[str, Any], *, follow: bool = True
) -> Choice:
    """Choose the tenant's image in a public registry; the last one stays while the tenant names none."""
    state = context.tenant_state
    current = str(known.get("imageID") or "") if known.get("source") == PUBLIC else ""
    offered = state.images.get(component, "")
    if not offered and not current:
        reason = state.problem or ("the tenant names none" if state.polled_at else "the tenant has not been polled yet")
        return Choice("", "", PUBLIC, NOT_KNOWN, f"the image in the public registry is not known: {reason}")
    if not offered or (current and not follow):
        return Choice(_tag(current), current, PUBLIC, DECIDED, f"the image {current} stays in use")
    # The digest of the same tag is known from the registry.
    image = current if offered == current.partition("@")[0] else offered
    return Choice(_tag(image), image, PUBLIC, DECIDED, f"the image {image} is the tenant's latest")


def _follow_public_image(context: ReconcileContext, known: Mapping[str, Any]) -> ReconcileResult:
    """Decide by the image's digest, once the registry has named it for the decided tag."""
    choice = _choose_public_image(context, "codemodules", known)
    if not choice.known:
        return reconcile_result.pending(choice.reason, choice.message)
    found, image = context.tenant_state.image, reference.parse(choice.image)
    if found.name != context.dynakube.package:
        found = ImageState()  # It is about a former image.
    if not image.digest and found.image is not None and image.at(found.digest) == found.image:
        image = image.at(found.digest)
    # The image's content decides the version, whatever its tag is.
    decided = Choice("", str(image), PUBLIC, choice.reason, choice.message)
    section = _status_section(decided, known, context)
    if found.problem:
        return reconcile_result.failed(NOT_FOLLOWED, f"{image} stays in use: {found.problem}", codeModules=section)
    return reconcile_result.ok(choice.reason, choice.message, codeModules=section)


def _tag(image: str) -> str:
    """Return an image's tag; empty if it names a digest alone, or cannot be read."""
    try:
        return reference.parse(image).tag
    except reference.InvalidReferenceError:
        return ""


def _result(choice: Choice, known: Mapping[str, Any], context: ReconcileContext, section: str) -> ReconcileResult:
    if not choice.known:
        return reconcile_result.pending(choice.reason, choice.message)
    return reconcile_result.ok(choice.reason, choice.message, **{section: _status_section(choice, known, context)})


def _status_section(choice: Choice, known: Mapping[str, Any], context: ReconcileContext) -> dict[str, str | None]:
    decided: dict[str, str | None] = {
        "version": choice.version or None,
        "imageID": choice.image or None,
        "source": choice.source,
    }
    state = context.tenant_state
    polled_at = types.timestamp(state.polled_at) if state.polled_at and not state.problem else None
    same = all(known.get(key) == value for key, value in decided.items())
    # A new time alone is no change: it would write every status at every poll.
    decided["lastProbeTimestamp"] = (known.get("lastProbeTimestamp") if same else None) or polled_at
    return decided
