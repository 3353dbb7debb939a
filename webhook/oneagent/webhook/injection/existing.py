"""What an earlier call has put into a pod.

It is told by what works, not by what is claimed: the init container as it is made here, with the volumes that it
mounts. An annotation alone proves nothing, anybody can write one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from oneagent.common import identifiers
from oneagent.common.injection import contract, pod_annotations
from oneagent.common.injection.contract import Variable
from oneagent.webhook.injection.pod_model import Container, Pod, Volume

_NUMBERED: Final = re.compile(r"CONTAINER_([0-9]{1,4})_NAME")


@dataclass(frozen=True, slots=True)
class Present:
    index: int
    """Of the init container. Another webhook may have put one of its own before it; that is its business."""
    container: Container
    values: Mapping[str, str]
    """The init container's variables."""
    volumes: Mapping[str, int]
    """All of the pod's, with their places."""
    csi: bool

    @property
    def agent(self) -> bool:
        return self.values.get(Variable.ONEAGENT_INJECTED) == "true"

    @property
    def enrichment(self) -> bool:
        return self.values.get(Variable.ENRICHMENT_INJECTED) == "true"

    @property
    def read_only(self) -> bool:
        return self.values.get(Variable.VIEW_READ_ONLY) == "true"

    @property
    def install_path(self) -> str:
        return self.values.get(Variable.INSTALL_PATH, "")

    @property
    def connect_retry(self) -> str:
        return self.values.get(Variable.CONNECT_RETRY, "")

    @property
    def numbered(self) -> dict[str, int]:
        """The containers that the init container knows, by name."""
        found = ((_NUMBERED.fullmatch(key), value) for key, value in self.values.items())
        return {value: int(match[1]) for match, value in found if match}


def find(pod: Pod) -> Present | None:
    volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
    share = volumes.get(contract.SHARE_VOLUME)
    if share is None or share.empty_dir is None:
        return None
    for index, container in enumerate(pod.spec.init_containers or ()):
        if container.name != contract.INIT_CONTAINER or container.command != [contract.INIT_CONTAINER]:
            continue
        values = {variable.name: variable.value or "" for variable in container.env or ()}
        places = {volume.name: place for place, volume in enumerate(pod.spec.volumes or ())}
        found = Present(index, container, values, places, _by_driver(volumes.get(contract.BIN_VOLUME)))
        mounted = {mount.name for mount in container.volume_mounts or ()}
        needed = {contract.SHARE_VOLUME, *((contract.BIN_VOLUME,) if found.agent else ())}
        data = {contract.DATA_VOLUME} if found.read_only else set[str]()
        return found if needed <= mounted and needed | data <= places.keys() else None
    return None


def seen(pod: Pod) -> str:
    """A digest of which containers there are that may get something, in whatever order."""
    sidecars = [container for container in pod.spec.init_containers or () if container.restart_policy == "Always"]
    listed = ",".join(sorted(container.name for container in (*sidecars, *pod.spec.containers)))
    return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_complete(pod: Pod) -> bool:
    """Whether the containers are those that the last call has seen."""
    return pod.annotations.get(pod_annotations.HANDLED) == seen(pod)


def _by_driver(volume: Volume | None) -> bool:
    return volume is not None and volume.csi is not None and volume.csi.driver == identifiers.DRIVER_NAME
