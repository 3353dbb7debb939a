"""Volumes of an injected pod.

None of them keeps a pod from starting, unless its failure policy is `fail`. The Secret is optional, since kubelet would
wait for a missing one; with `fail` it is required. After its timeout the driver mounts an empty view.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.injection import contract, pod_annotations
from oneagent.webhook.injection import plan as plans
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Pod

_TOKEN_SECONDS: Final = 3600
_SIZE: Final = re.compile(r"[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?")

Volume = dict[str, Any]


def of_pod(pod: Pod, plan: Plan, dynakube: DynaKubeSettings, containers: Sequence[str]) -> list[Volume]:
    volumes = []
    if plan.agent:
        volumes.append(_csi_volume(plan, dynakube, containers) if plan.csi else _empty_dir(pod))
    if plan.read_only:
        volumes.append({"name": contract.DATA_VOLUME, "emptyDir": {}})
    volumes.append({"name": contract.SHARE_VOLUME, "emptyDir": {}})
    if plan.agent and not plan.csi:
        volumes.append(_config_volume(optional=plans.failure_policy(pod, dynakube)[0] != "fail"))
    return volumes


def reserved(plan: Plan) -> set[str]:
    """Return volume names that the pod's own volumes must not have."""
    of_agent = {contract.BIN_VOLUME} if plan.csi else {contract.BIN_VOLUME, contract.CONFIG_VOLUME}
    if plan.read_only:
        of_agent.add(contract.DATA_VOLUME)
    return {contract.SHARE_VOLUME, *(of_agent if plan.agent else ())}


def size_warning(pod: Pod) -> str:
    """Return a warning if the annotation's size is invalid; empty if it is valid or absent."""
    size = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    if not size or _SIZE.fullmatch(size):
        return ""
    return f"annotation {pod_annotations.BIN_SIZE} is {size[:80]!r}, which is ignored: it must be a size such as 2Gi"


def _csi_volume(plan: Plan, dynakube: DynaKubeSettings, containers: Sequence[str]) -> Volume:
    attributes = {"mode": "app", "dynakube": dynakube.common.name, "containers": ",".join(containers)}
    if timeout := dynakube.mount_timeout:
        attributes["retryTimeout"] = timeout
    csi: dict[str, Any] = {"driver": identifiers.DRIVER_NAME, "volumeAttributes": attributes}
    if plan.read_only:
        csi["readOnly"] = True
    return {"name": contract.BIN_VOLUME, "csi": csi}


def _empty_dir(pod: Pod) -> Volume:
    size = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    return {"name": contract.BIN_VOLUME, "emptyDir": {"sizeLimit": size} if _SIZE.fullmatch(size) else {}}


def _config_volume(*, optional: bool) -> Volume:
    file = contract.INJECTION_FILE
    secret = {"name": contract.INJECTION_SECRET, "optional": optional, "items": [{"key": file, "path": file}]}
    token = {"audience": contract.PACKAGE_AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": contract.TOKEN_FILE}
    sources = [{"secret": secret}, {"serviceAccountToken": token}]
    return {"name": contract.CONFIG_VOLUME, "projected": {"sources": sources}}
