"""What is to be in a pod: the answer to every question, before anything is made.

A pod gets the agent, enrichment, or both. Where the agent can't be had although it is wanted, the pod gets neither:
it is instrumented or untouched. The agent comes by a CSI volume if the DynaKube wants that and the driver is on the
cluster, which is also how the operator decides whether namespaces get what pods without CSI need.

A pod that an earlier call has done keeps what it has, whatever the DynaKube says by now.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from typing import Final

from oneagent.common import identifiers
from oneagent.common.injection import contract, pod_annotations, skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.kubernetes.selectors import Selector
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.existing import Present
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.pod_model import Container, Pod

_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/+@-]{2,500}")
"""Without what separates in `LD_PRELOAD`, or is expanded in a variable."""
_OTHERS: Final = ("/dev", "/proc", "/sys", "/var/lib/dynatrace")
"""Folders of the system, and the one that has our other mounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the webhook is told when it is started."""

    image: str
    """Of the init container."""
    own_namespace: str
    version: str
    """This program's, as agents report it."""
    image_pull_policy: str = "IfNotPresent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    agent: bool
    enrichment: bool
    csi: bool
    read_only: bool
    """The view, in all containers."""
    install_path: str
    connect_retry: str
    """Milliseconds; empty for the agent's own choice."""
    agent_off: SkipReason | None = None
    """Why there is no agent, if there is none."""

    @property
    def library(self) -> str:
        return f"{self.install_path}/{identifiers.PRELOAD_LIBRARY}"


def fresh(pod: Pod, facts: PodContext, kube: Kube) -> Plan | SkipReason:
    """The plan for a pod that nobody has done anything to."""
    agent_off = _agent_off(pod, facts, kube)
    enrichment = _enriches(pod, facts, kube)
    if agent_off and not enrichment:
        return agent_off
    csi = kube.common.needs_views and facts.csi
    install_path = _install_path(pod)
    if agent_off is None:
        if not _is_ready(kube, csi):
            return skip_reasons.DYNAKUBE_NOT_READY
        if csi and facts.driver_trouble:
            return replace(skip_reasons.DRIVER_TROUBLE, detail=facts.driver_trouble)
        if csi and pod.spec.host_users is False:
            return skip_reasons.USER_NAMESPACE
        if not install_path:
            return replace(
                skip_reasons.INVALID_INSTALL_PATH, detail=repr(pod.annotations[pod_annotations.INSTALL_PATH][:80])
            )
    return Plan(
        agent=agent_off is None,
        enrichment=enrichment,
        csi=csi,
        read_only=agent_off is None and csi and kube.is_on("injection-readonly-volume"),
        install_path=install_path,
        connect_retry=_connect_retry(kube),
        agent_off=agent_off,
    )


def again(present: Present) -> Plan | None:
    """The plan by which a pod was done; None if somebody has spoilt it since, and it is better left alone."""
    if present.agent and not usable_path(present.install_path):
        return None
    return Plan(
        agent=present.agent,
        enrichment=present.enrichment,
        csi=present.csi,
        read_only=present.read_only,
        install_path=present.install_path,
        connect_retry=present.connect_retry,
    )


def is_excluded(container: Container, pod: Pod, kube: Kube) -> bool:
    key = pod_annotations.INJECT_CONTAINER + container.name
    given = pod_annotations.switch(pod.annotations, key)
    return (pod_annotations.switch(kube.annotations, key) if given is None else given) is False


def usable_path(path: str) -> bool:
    """Whether the agent can be mounted there: absolute, plain, and not in the place of a whole system folder."""
    if not _PLAIN_PATH.fullmatch(path) or posixpath.normpath(path) != path or path.startswith("//"):
        return False
    is_near = any(f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/") for other in _OTHERS)
    return path.count("/") > 1 and not is_near


def failure_policy(pod: Pod, kube: Kube) -> tuple[str, str]:
    """`silent` or `fail`, and a warning if something else is asked for."""
    asked = pod.annotations.get(pod_annotations.FAILURE_POLICY, "").strip() or kube.feature("injection-failure-policy")
    if asked in ("silent", "fail"):
        return asked, ""
    return "silent", f"failure policy {asked[:80]!r} is neither silent nor fail: silent is used"


def _agent_off(pod: Pod, facts: PodContext, kube: Kube) -> SkipReason | None:
    if kube.agent_selector is None:
        return skip_reasons.MODE_INJECTS_NOTHING
    return _off(pod, facts, kube, kube.agent_selector, pod_annotations.INJECT_AGENT)


def _enriches(pod: Pod, facts: PodContext, kube: Kube) -> bool:
    selector = kube.enrichment_selector
    return selector is not None and _off(pod, facts, kube, selector, *pod_annotations.INJECT_ENRICHMENT) is None


def _off(pod: Pod, facts: PodContext, kube: Kube, selector: Selector, *switches: str) -> SkipReason | None:
    asked = pod_annotations.switch(pod.annotations, *switches)
    if asked is False:
        return skip_reasons.OPTED_OUT
    if not selector.matches(facts.namespace_labels):
        return skip_reasons.NOT_SELECTED
    asked = asked or pod_annotations.switch(pod.annotations, pod_annotations.INJECT)
    return None if asked or kube.is_on("automatic-injection") else skip_reasons.NOT_AUTOMATIC


def _is_ready(kube: Kube, csi: bool) -> bool:
    common = kube.common
    if not csi:
        return bool(common.tenant and common.decided_version)
    if common.is_local:
        return True
    return bool(common.tenant and (common.decided_version or common.pinned_version or common.image_id))


def _install_path(pod: Pod) -> str:
    """Empty if the one that is asked for can't be used."""
    asked = pod.annotations.get(pod_annotations.INSTALL_PATH, "").strip()
    path = asked.rstrip("/") if asked else contract.INSTALL_PATH
    return path if usable_path(path) else ""


def _connect_retry(kube: Kube) -> str:
    asked = kube.feature("oneagent-initial-connect-retry-ms")
    return asked if re.fullmatch(r"[1-9][0-9]{0,8}", asked) else ""
