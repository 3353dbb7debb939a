"""The init container: what it runs as, and what it is told.

It fits what a namespace may demand. Its security context is one of the restricted profile. It runs as whom the pod's
first container, or else the pod, runs as; otherwise as the user of its own image, which is a number and not root. So
nothing is asked for that an OpenShift constraint would refuse, where the cluster chooses each pod's user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oneagent.common.injection import contract, pod_annotations
from oneagent.common.injection.contract import Variable
from oneagent.webhook.injection import env, mounts, plan, resources
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.env import Entry
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.plan import Plan, Settings
from oneagent.webhook.injection.pod_model import Container, Identity, Pod


def make(
    pod: Pod, facts: PodContext, kube: Kube, settings: Settings, planned: Plan, containers: Sequence[Container]
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": contract.INIT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [contract.INIT_CONTAINER],
        "env": [*_about_pod(pod, facts, kube, planned), *(_about_agent(pod, kube, planned) if planned.agent else ())],
        "volumeMounts": mounts.of_init_container(planned),
        "securityContext": _security_context(pod, kube),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if planned.agent:
        made["env"].append(env.plain(Variable.CONTAINERS, str(len(containers))))
        made["env"] += about_containers(containers, first=1)
    if granted := resources.of_init_container(pod, kube, unpacks=planned.agent and not planned.csi):
        made["resources"] = granted
    return made


def about_containers(containers: Sequence[Container], first: int) -> list[Entry]:
    found = []
    for number, container in enumerate(containers, first):
        found.append(env.plain(Variable.CONTAINER_NAME.format(number=number), container.name))
        found.append(env.plain(Variable.CONTAINER_IMAGE.format(number=number), container.image or ""))
    return found


def _about_pod(pod: Pod, facts: PodContext, kube: Kube, planned: Plan) -> list[Entry]:
    policy, _ = plan.failure_policy(pod, kube)
    values = {
        Variable.FAILURE_POLICY: policy,
        Variable.DYNAKUBE: kube.common.name,
        Variable.ONEAGENT_INJECTED: "true" if planned.agent else "",
        Variable.ENRICHMENT_INJECTED: "true" if planned.enrichment else "",
        Variable.BASE_POD_NAME: pod.base_name,
        Variable.CLUSTER_ID: facts.cluster_id,
        Variable.WORKLOAD_KIND: facts.workload.kind,
        Variable.WORKLOAD_NAME: facts.workload.name,
    }
    return [
        *(env.plain(name, value) for name, value in values.items() if value),
        env.field(Variable.POD_NAME, "metadata.name"),
        env.field(Variable.POD_UID, "metadata.uid"),
        env.field(Variable.NAMESPACE, "metadata.namespace"),
        env.field(Variable.NODE_NAME, "spec.nodeName"),
    ]


def _about_agent(pod: Pod, kube: Kube, planned: Plan) -> list[Entry]:
    values = {
        Variable.MODE: "provisioned" if planned.csi else "installer",
        Variable.INSTALL_PATH: planned.install_path,
        Variable.VIEW_READ_ONLY: "true" if planned.read_only else "",
        Variable.HOST_TENANT: (kube.common.tenant or "") if kube.common.needs_host_directory else "",
        Variable.CONNECT_RETRY: planned.connect_retry,
    }
    if not planned.csi:
        for variable, key in (
            (Variable.VERSION, pod_annotations.VERSION),
            (Variable.FLAVOR, pod_annotations.FLAVOR),
            (Variable.TECHNOLOGIES, pod_annotations.TECHNOLOGIES),
        ):
            values[variable] = pod.annotations.get(key, "").strip()
    return [env.plain(name, value) for name, value in values.items() if value]


def _security_context(pod: Pod, kube: Kube) -> dict[str, Any]:
    container = next((container.security_context for container in pod.spec.containers), None) or Identity()
    whole = pod.spec.security_context or Identity()
    user = whole.run_as_user if container.run_as_user is None else container.run_as_user
    made: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": user != 0,
    }
    # What the pod says holds for all of its containers anyway.
    if container.run_as_user is not None:
        made["runAsUser"] = container.run_as_user
    if container.run_as_group is not None:
        made["runAsGroup"] = container.run_as_group
    # That of the pod holds for ours, too. Where nobody has one, an OpenShift constraint may be why.
    if container.seccomp_profile is not None or kube.is_on("init-container-seccomp-profile"):
        made["seccompProfile"] = {"type": "RuntimeDefault"}
    return made
