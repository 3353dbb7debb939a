"""The plan of a pod's injection: all decisions before anything is built.

A pod with the agent gets enrichment too, unless it opts out; a pod without may get it by the DynaKube's own section. If
the agent is requested but not available, the pod gets neither: it is instrumented or unchanged. Agent and metadata come
in a CSI volume if the DynaKube allows that and the cluster has the driver; otherwise an init container gets them. The
operator decides in the same way whether namespaces get the Secret that pods without CSI need.

A reinvocation keeps the plan of the earlier call, even if the DynaKube has changed since.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from typing import Final

from oneagent.common.agents.profile import AgentProfile
from oneagent.common.injection import pod_annotations, skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.kubernetes.selectors import Selector
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.existing import ExistingInjection
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.pod_model import Container, Pod

_PATH: Final = re.compile(r"/[A-Za-z0-9._/+@-]{2,500}")
"""Has no separators of `LD_PRELOAD`, and nothing that is expanded in a variable"""
_LONGEST_DETAIL: Final = 200
_RESERVED_DIRECTORIES: Final = ("/dev", "/proc", "/sys", "/var/lib/dynatrace")
"""Directories of the system, and the one with our other mounts"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the webhook that patches depend on."""

    image: str
    """Image of the init container"""
    own_namespace: str
    version: str
    """Version of the webhook, which agents report"""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secret: str = ""
    """Secret in the pod's namespace with credentials for the image; empty for none"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    agent: bool
    enrichment: bool
    csi: bool
    init_container: bool
    """An init container prepares the pod: without CSI, or by an earlier release"""
    other_init_containers: bool
    """Init containers that are no sidecars get what the others get"""
    read_only: bool
    """Containers cannot write to the agent's directory, but to two directories in it"""
    user_namespace: bool
    """The pod has a user namespace, in which overlay file systems cannot be mounted"""
    install_path: str
    connect_retry: str
    """Milliseconds; empty for the agent's default"""
    profile: AgentProfile
    agent_off: SkipReason | None = None
    """Reason if there is no agent"""

    @property
    def has_data_volume(self) -> bool:
        """Agents write into an empty directory, since they cannot in their own."""
        return self.read_only and bool(self.profile.writable_directories)

    @property
    def container_path(self) -> str:
        """The path at which a container mounts its own file."""
        path = self.profile.container_path
        return f"{self.install_path}/{path}" if self.profile.mounts_in_view else path

    @property
    def library(self) -> str:
        return f"{self.install_path}/{self.profile.preload_library}"


def create(pod: Pod, context: PodContext, dynakube: DynaKubeSettings) -> Plan | SkipReason:
    """Plan a pod that is not injected yet."""
    agent_off = _agent_off(pod, context, dynakube)
    profile = dynakube.profile
    enrichment = profile.has_metadata and _is_enriched(pod, context, dynakube, agent=agent_off is None)
    if agent_off and not enrichment:
        return agent_off
    csi = dynakube.common.allows_csi and context.csi
    if not csi and profile.needs_csi:
        return replace(skip_reasons.DRIVER_UNAVAILABLE, detail=f"{profile.title} comes only by the driver")
    install_path = _install_path(pod, profile)
    if agent_off is None and not _is_ready(dynakube, csi):
        config = dynakube.common.tenant_config
        # The operator's words have what the tenant answers.
        detail = config.reason[:_LONGEST_DETAIL] if config is not None else ""
        return replace(skip_reasons.DYNAKUBE_NOT_READY.for_kind(profile.object_kind), detail=detail)
    if csi and context.driver_problem:
        return replace(skip_reasons.DRIVER_UNAVAILABLE, detail=context.driver_problem)
    if agent_off is None and not install_path:
        return replace(
            skip_reasons.INVALID_INSTALL_PATH, detail=repr(pod.annotations[pod_annotations.INSTALL_PATH][:80])
        )
    view = agent_off is None and csi
    user_namespace = view and pod.spec.host_users is False
    return Plan(
        agent=agent_off is None,
        enrichment=enrichment,
        csi=csi,
        init_container=not csi,
        other_init_containers=csi and _injects_init_containers(pod, dynakube),
        read_only=user_namespace or (view and dynakube.is_on("injection-readonly-volume")),
        user_namespace=user_namespace,
        install_path=install_path,
        connect_retry=_connect_retry(dynakube) if profile.asks_tenant else "",
        profile=profile,
        agent_off=agent_off,
    )


def restore(found: ExistingInjection, pod: Pod, dynakube: DynaKubeSettings) -> Plan | None:
    """Return the plan of an earlier call; None if its install path was changed to an invalid one.

    Only the choice of containers is made again, as it is for those that annotations exclude.
    """
    if found.agent and not is_valid_install_path(found.install_path):
        return None
    return Plan(
        agent=found.agent,
        enrichment=found.enrichment,
        csi=found.csi,
        init_container=found.init is not None,
        other_init_containers=found.init is None and _injects_init_containers(pod, dynakube),
        read_only=found.read_only,
        user_namespace=found.user_namespace,
        install_path=found.install_path,
        connect_retry=found.connect_retry,
        profile=found.profile,
    )


def is_excluded(container: Container, pod: Pod, dynakube: DynaKubeSettings) -> bool:
    key = pod_annotations.INJECT_CONTAINER + container.name
    given = pod_annotations.switch(pod.annotations, key)
    return (pod_annotations.switch(dynakube.annotations, key) if given is None else given) is False


def is_valid_install_path(path: str) -> bool:
    """Return whether a path is absolute, plain, and neither above nor below a reserved directory."""
    if not _PATH.fullmatch(path) or posixpath.normpath(path) != path or path.startswith("//"):
        return False
    is_near = any(f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/") for other in _RESERVED_DIRECTORIES)
    return path.count("/") > 1 and not is_near


def failure_policy(pod: Pod, dynakube: DynaKubeSettings) -> tuple[str, str]:
    """Return `silent` or `fail`, and a warning if the setting is neither."""
    value = pod.annotations.get(pod_annotations.FAILURE_POLICY, "").strip() or dynakube.feature(
        "injection-failure-policy"
    )
    if value in ("silent", "fail"):
        return value, ""
    return "silent", f"failure policy {value[:80]!r} is ignored: it must be silent or fail; silent is used"


def _injects_init_containers(pod: Pod, dynakube: DynaKubeSettings) -> bool:
    given = pod_annotations.switch(pod.annotations, pod_annotations.INJECT_INIT_CONTAINERS)
    return dynakube.is_on("injection-init-containers") if given is None else given


def _agent_off(pod: Pod, context: PodContext, dynakube: DynaKubeSettings) -> SkipReason | None:
    if dynakube.agent_selector is None:
        return skip_reasons.MODE_INJECTS_NOTHING
    return _reason_not_injected(pod, context, dynakube, dynakube.agent_selector, pod_annotations.INJECT_AGENT)


def _is_enriched(pod: Pod, context: PodContext, dynakube: DynaKubeSettings, *, agent: bool) -> bool:
    """Return whether the pod is enriched: with the agent always, unless it opts out."""
    if agent:
        return pod_annotations.switch(pod.annotations, *pod_annotations.INJECT_ENRICHMENT) is not False
    selector = dynakube.enrichment_selector
    return (
        selector is not None
        and _reason_not_injected(pod, context, dynakube, selector, *pod_annotations.INJECT_ENRICHMENT) is None
    )


def _reason_not_injected(
    pod: Pod, context: PodContext, dynakube: DynaKubeSettings, selector: Selector, *switches: str
) -> SkipReason | None:
    value = pod_annotations.switch(pod.annotations, *switches)
    if value is False:
        return skip_reasons.OPTED_OUT
    if not selector.matches(context.namespace_labels):
        return skip_reasons.NOT_SELECTED
    value = value or pod_annotations.switch(pod.annotations, pod_annotations.INJECT)
    return None if value or dynakube.is_on("automatic-injection") else skip_reasons.NOT_AUTOMATIC


def _is_ready(dynakube: DynaKubeSettings, csi: bool) -> bool:
    common = dynakube.common
    if not csi:
        return bool(common.tenant and common.decided_version)
    if common.is_local:
        return True
    if not dynakube.profile.asks_tenant:
        return bool(common.image_id)
    return bool(common.tenant and (common.decided_version or common.pinned_version or common.image_id))


def _install_path(pod: Pod, profile: AgentProfile) -> str:
    """Return the agent's path in containers; empty if the annotation's value is invalid."""
    value = pod.annotations.get(pod_annotations.INSTALL_PATH, "").strip()
    path = value.rstrip("/") if value else profile.install_path
    return path if is_valid_install_path(path) else ""


def _connect_retry(dynakube: DynaKubeSettings) -> str:
    value = dynakube.feature("oneagent-initial-connect-retry-ms")
    return value if re.fullmatch(r"[1-9][0-9]{0,8}", value) else ""
