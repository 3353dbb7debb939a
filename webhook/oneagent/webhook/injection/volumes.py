"""Volumes of an injected pod.

With CSI there is a single one, by the driver, whose attributes have all that it writes into the pod's files; only a
pod that cannot write to it gets an empty directory for what agents write. Without CSI the init container fills empty
directories.

None of them keeps a pod from starting, unless its failure policy is `fail`. The Secret is optional, since kubelet would
wait for a missing one; with `fail` it is required. After its timeout the driver mounts an empty view; with `fail` it
goes on waiting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.injection import contract, pod_annotations, volume_attributes
from oneagent.webhook.injection import plan as plans
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

_TOKEN_SECONDS: Final = 3600
_SIZE: Final = re.compile(r"[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?")
_MAX_LISTED: Final = 5

Volume = dict[str, Any]


def with_csi(plan: Plan, attributes: Mapping[str, str]) -> list[Volume]:
    csi: dict[str, Any] = {"driver": identifiers.DRIVER_NAME, "volumeAttributes": dict(attributes)}
    # With a user namespace the driver mounts nothing that could be written to.
    if plan.read_only and not plan.user_namespace:
        csi["readOnly"] = True
    volumes: list[Volume] = [{"name": contract.BIN_VOLUME, "csi": csi}]
    if plan.has_data_volume:
        volumes.append({"name": contract.DATA_VOLUME, "emptyDir": {}})
    return volumes


def without_csi(pod: Pod, plan: Plan, dynakube: DynaKubeSettings) -> list[Volume]:
    share = {"name": contract.SHARE_VOLUME, "emptyDir": {}}
    if not plan.agent:
        return [share]
    return [_empty_dir(pod), share, _config_volume(optional=plans.failure_policy(pod, dynakube)[0] != "fail")]


def reserved(plan: Plan) -> set[str]:
    """Return volume names that the pod's own volumes must not have."""
    if plan.csi:
        return {contract.BIN_VOLUME, *([contract.DATA_VOLUME] if plan.has_data_volume else ())}
    return {contract.SHARE_VOLUME, *([contract.BIN_VOLUME, contract.CONFIG_VOLUME] if plan.agent else ())}


def attributes(
    pod: Pod, context: PodContext, plan: Plan, dynakube: DynaKubeSettings, containers: Sequence[Container]
) -> dict[str, str]:
    """Return the attributes of a pod, before any limit."""
    found = {
        volume_attributes.MODE: volume_attributes.MODE_APP if plan.agent else volume_attributes.MODE_CONF,
        volume_attributes.DYNAKUBE: dynakube.profile.name_of_object(dynakube.common.name),
        volume_attributes.AGENT: dynakube.profile.kind if dynakube.profile.name_prefix else "",
        volume_attributes.BASE_POD_NAME: pod.base_name,
        volume_attributes.WORKLOAD_KIND: context.workload.kind,
        volume_attributes.WORKLOAD_NAME: context.workload.name,
        volume_attributes.CLUSTER_ID: context.cluster_id,
    }
    if plan.enrichment:
        found[volume_attributes.ENRICHMENT] = "true"
        resource_attributes = dynakube.attributes if plan.agent else dynakube.enrichment_attributes
        found |= {f"{volume_attributes.ATTRIBUTE}{key}": value for key, value in resource_attributes.items()}
    if plan.agent:
        found[volume_attributes.CONTAINERS] = ",".join(container.name for container in containers)
        found[volume_attributes.RETRY_TIMEOUT] = dynakube.mount_timeout
        found[volume_attributes.CONNECT_RETRY] = plan.connect_retry
        found |= images(containers)
        if plan.user_namespace:
            found[volume_attributes.USER_NAMESPACE] = "true"
        if plans.failure_policy(pod, dynakube)[0] == "fail":
            found[volume_attributes.FAILURE_POLICY] = "fail"
    return found


def images(containers: Sequence[Container]) -> dict[str, str]:
    return {f"{volume_attributes.IMAGE}{container.name}": container.image or "" for container in containers}


def left_out_warning(pod: Pod, keys: Sequence[str]) -> str:
    """Return a warning about attributes that a volume cannot have; empty if there is none."""
    if not keys:
        return ""
    listed = ", ".join(keys[:_MAX_LISTED]) + (f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else "")
    return (
        f"pod {pod.name}: agents report less of it, since attributes of a volume are printable and have at most "
        f"{volume_attributes.MAX_MAP_BYTES} bytes in all; left out: {listed}"
    )


def size_warning(pod: Pod) -> str:
    """Return a warning if the annotation's size is invalid; empty if it is valid or absent."""
    size = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    if not size or _SIZE.fullmatch(size):
        return ""
    return f"annotation {pod_annotations.BIN_SIZE} is {size[:80]!r}, which is ignored: it must be a size such as 2Gi"


def _empty_dir(pod: Pod) -> Volume:
    size = pod.annotations.get(pod_annotations.BIN_SIZE, "").strip()
    return {"name": contract.BIN_VOLUME, "emptyDir": {"sizeLimit": size} if _SIZE.fullmatch(size) else {}}


def _config_volume(*, optional: bool) -> Volume:
    file = contract.INJECTION_FILE
    secret = {"name": contract.INJECTION_SECRET, "optional": optional, "items": [{"key": file, "path": file}]}
    token = {"audience": contract.PACKAGE_AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": contract.TOKEN_FILE}
    sources = [{"secret": secret}, {"serviceAccountToken": token}]
    return {"name": contract.CONFIG_VOLUME, "projected": {"sources": sources}}
