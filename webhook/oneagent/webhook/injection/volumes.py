"""The volumes that a pod gets.

None of them can keep a pod from starting that does not want to be kept. The Secret is optional, since kubelet would
wait for one that is not there; a pod that would rather fail than start without its agent waits for it. The driver
gives up in time and mounts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.injection import contract, pod_annotations
from oneagent.webhook.injection import plan as plans
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Pod

_TOKEN_SECONDS: Final = 3600
_SIZE: Final = re.compile(r"[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?")

Volume = dict[str, Any]


def of_pod(pod: Pod, plan: Plan, kube: Kube, containers: Sequence[str]) -> list[Volume]:
    found = []
    if plan.agent:
        found.append(_view(plan, kube, containers) if plan.csi else _folder(pod))
    if plan.read_only:
        found.append({"name": contract.DATA_VOLUME, "emptyDir": {}})
    found.append({"name": contract.SHARE_VOLUME, "emptyDir": {}})
    if plan.agent and not plan.csi:
        found.append(_config(optional=plans.failure_policy(pod, kube)[0] != "fail"))
    return found


def reserved(plan: Plan) -> set[str]:
    """The names that a pod must not have for volumes of its own."""
    of_agent = {contract.BIN_VOLUME} if plan.csi else {contract.BIN_VOLUME, contract.CONFIG_VOLUME}
    if plan.read_only:
        of_agent.add(contract.DATA_VOLUME)
    return {contract.SHARE_VOLUME, *(of_agent if plan.agent else ())}


def unusable_size(pod: Pod) -> str:
    """A warning, if the size that is asked for is none."""
    asked = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    if not asked or _SIZE.fullmatch(asked):
        return ""
    return f"annotation {pod_annotations.BIN_SIZE} is {asked[:80]!r} and does nothing: it must be a size such as 2Gi"


def _view(plan: Plan, kube: Kube, containers: Sequence[str]) -> Volume:
    attributes = {"mode": "app", "dynakube": kube.common.name, "containers": ",".join(containers)}
    if timeout := kube.mount_timeout:
        attributes["retryTimeout"] = timeout
    csi: dict[str, Any] = {"driver": identifiers.DRIVER_NAME, "volumeAttributes": attributes}
    if plan.read_only:
        csi["readOnly"] = True
    return {"name": contract.BIN_VOLUME, "csi": csi}


def _folder(pod: Pod) -> Volume:
    size = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    return {"name": contract.BIN_VOLUME, "emptyDir": {"sizeLimit": size} if _SIZE.fullmatch(size) else {}}


def _config(*, optional: bool) -> Volume:
    file = contract.INJECTION_FILE
    secret = {"name": contract.INJECTION_SECRET, "optional": optional, "items": [{"key": file, "path": file}]}
    token = {"audience": identifiers.PACKAGE_AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": contract.TOKEN_FILE}
    sources = [{"secret": secret}, {"serviceAccountToken": token}]
    return {"name": contract.CONFIG_VOLUME, "projected": {"sources": sources}}
