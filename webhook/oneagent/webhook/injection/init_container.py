"""The init container of pods without CSI: its security context and its environment.

Its security context satisfies the Pod Security Standard `restricted`. It runs as the user of the pod's first
container, or else of the pod, or else of its own image, which is a number and not root. So an OpenShift SCC, where the
cluster chooses each pod's user, does not refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.common.injection import contract, pod_annotations
from oneagent.common.kubernetes import env
from oneagent.common.kubernetes.env import Entry
from oneagent.webhook.injection import mounts, plan
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.plan import Plan, Settings
from oneagent.webhook.injection.pod_model import Container, Pod, SecurityContext
from oneagent.webhook.injection.resources import Resources

_REQUESTS: Final = {
    Variable.VERSION: pod_annotations.VERSION,
    Variable.FLAVOR: pod_annotations.FLAVOR,
    Variable.TECHNOLOGIES: pod_annotations.TECHNOLOGIES,
}
"""Variables that a pod's annotations choose."""


def build(
    pod: Pod,
    context: PodContext,
    dynakube: DynaKubeSettings,
    settings: Settings,
    pod_plan: Plan,
    containers: Sequence[Container],
    container_resources: Resources,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": contract.INIT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [contract.INIT_CONTAINER],
        "env": [
            *_about_pod(pod, context, dynakube, pod_plan),
            *(_about_agent(pod, dynakube, pod_plan) if pod_plan.agent else ()),
        ],
        "volumeMounts": mounts.of_init_container(pod_plan),
        "securityContext": _security_context(pod, dynakube),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if pod_plan.agent:
        result["env"].append(env.literal(Variable.CONTAINERS, str(len(containers))))
        result["env"] += container_variables(containers, first=1)
    if container_resources:
        result["resources"] = container_resources
    return result


def container_variables(containers: Sequence[Container], first: int) -> list[Entry]:
    entries = []
    for number, container in enumerate(containers, first):
        entries.append(env.literal(Variable.CONTAINER_NAME.format(number=number), container.name))
        entries.append(env.literal(Variable.CONTAINER_IMAGE.format(number=number), container.image or ""))
    return entries


def _about_pod(pod: Pod, context: PodContext, dynakube: DynaKubeSettings, pod_plan: Plan) -> list[Entry]:
    policy, _ = plan.failure_policy(pod, dynakube)
    values = {
        Variable.FAILURE_POLICY: policy,
        Variable.DYNAKUBE: dynakube.common.name,
        Variable.ONEAGENT_INJECTED: "true" if pod_plan.agent else "",
        Variable.ENRICHMENT_INJECTED: "true" if pod_plan.enrichment else "",
        Variable.BASE_POD_NAME: pod.base_name,
        Variable.CLUSTER_ID: context.cluster_id,
        Variable.WORKLOAD_KIND: context.workload.kind,
        Variable.WORKLOAD_NAME: context.workload.name,
        Variable.RESOURCE_ATTRIBUTES: _attributes(dynakube, pod_plan),
    }
    return [
        *(env.literal(name, value) for name, value in values.items() if value),
        env.field(Variable.POD_NAME, "metadata.name"),
        env.field(Variable.POD_UID, "metadata.uid"),
        env.field(Variable.NAMESPACE, "metadata.namespace"),
        env.field(Variable.NODE_NAME, "spec.nodeName"),
    ]


def _attributes(dynakube: DynaKubeSettings, pod_plan: Plan) -> str:
    """Return the resource attributes as JSON; empty if the pod gets none."""
    found = dynakube.attributes if pod_plan.agent else dynakube.enrichment_attributes
    return json.dumps(found, separators=(",", ":")) if found and pod_plan.enrichment else ""


def _about_agent(pod: Pod, dynakube: DynaKubeSettings, pod_plan: Plan) -> list[Entry]:
    values = {
        Variable.MODE: "installer",
        Variable.INSTALL_PATH: pod_plan.install_path,
        Variable.HOST_TENANT: (dynakube.common.tenant or "") if dynakube.common.needs_host_directory else "",
        Variable.CONNECT_RETRY: pod_plan.connect_retry,
        **{variable: pod.annotations.get(key, "").strip() for variable, key in _REQUESTS.items()},
    }
    return [env.literal(name, value) for name, value in values.items() if value]


def _security_context(pod: Pod, dynakube: DynaKubeSettings) -> dict[str, Any]:
    container = next((container.security_context for container in pod.spec.containers), None) or SecurityContext()
    whole = pod.spec.security_context or SecurityContext()
    user = whole.run_as_user if container.run_as_user is None else container.run_as_user
    result: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": user != 0,
    }
    # The pod's own user and group hold for all of its containers anyway.
    if container.run_as_user is not None:
        result["runAsUser"] = container.run_as_user
    if container.run_as_group is not None:
        result["runAsGroup"] = container.run_as_group
    # The pod's profile holds for this container, too. Where neither has one, an OpenShift SCC may forbid it.
    if container.seccomp_profile is not None or dynakube.is_on("init-container-seccomp-profile"):
        result["seccompProfile"] = {"type": "RuntimeDefault"}
    return result
