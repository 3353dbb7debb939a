"""The injection of a pod by an earlier call.

It is recognised by the init container with our name and command, and the volumes that it mounts. An annotation alone
proves nothing, since every user can write one.

Another webhook may have removed or changed a part of it. Without that container or a volume the rest does not work. It
is recognised by mounts and volumes that only an injection has.
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
from oneagent.webhook.injection.pod_model import Container, Mount, Pod, Volume

_CONTAINER_NAME: Final = re.compile(r"CONTAINER_([0-9]{1,4})_NAME")

_OWN_PATHS: Final = (contract.CONTAINER_CONF_PATH, contract.ENRICHMENT_PATH, contract.CURL_OPTIONS_PATH)


@dataclass(frozen=True, slots=True)
class ExistingInjection:
    index: int
    """Index of the init container, which another webhook may have moved"""
    container: Container
    variables: Mapping[str, str]
    """The init container's variables"""
    volumes: Mapping[str, int]
    """Index of each volume of the pod"""
    csi: bool

    @property
    def agent(self) -> bool:
        return self.variables.get(Variable.ONEAGENT_INJECTED) == "true"

    @property
    def enrichment(self) -> bool:
        return self.variables.get(Variable.ENRICHMENT_INJECTED) == "true"

    @property
    def read_only(self) -> bool:
        return self.variables.get(Variable.VIEW_READ_ONLY) == "true"

    @property
    def install_path(self) -> str:
        return self.variables.get(Variable.INSTALL_PATH, "")

    @property
    def connect_retry(self) -> str:
        return self.variables.get(Variable.CONNECT_RETRY, "")

    @property
    def container_numbers(self) -> dict[str, int]:
        """Numbers of the containers that the init container prepares, by name."""
        matches = ((_CONTAINER_NAME.fullmatch(key), value) for key, value in self.variables.items())
        return {value: int(match[1]) for match, value in matches if match}


def find(pod: Pod) -> ExistingInjection | None:
    """Return the injection if its init container and all its volumes are there."""
    volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
    if not _is_empty_dir(volumes.get(contract.SHARE_VOLUME)):
        return None
    for index, container in enumerate(pod.spec.init_containers or ()):
        if container.name != contract.INIT_CONTAINER or container.command != [contract.INIT_CONTAINER]:
            continue
        variables = {variable.name: variable.value or "" for variable in container.env or ()}
        places = {volume.name: place for place, volume in enumerate(pod.spec.volumes or ())}
        found = ExistingInjection(index, container, variables, places, _is_csi_volume(volumes.get(contract.BIN_VOLUME)))
        return found if not container.args and _has_volumes(found) else None
    return None


def has_remains(pod: Pod) -> bool:
    """Return whether a pod has anything that only an injection adds."""
    if any(_is_own_mount(mount) for container in pod.all_containers() for mount in container.volume_mounts or ()):
        return True
    return has_driver_volume(pod)


def has_driver_volume(pod: Pod) -> bool:
    """Return whether a pod has the agent's volume by the CSI driver, with attributes of the webhook."""
    volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
    agent = volumes.get(contract.BIN_VOLUME)
    if agent is None or agent.csi is None or not _is_csi_volume(agent):
        return False
    return "containers" in (agent.csi.volume_attributes or {}) and _is_empty_dir(volumes.get(contract.SHARE_VOLUME))


def containers_digest(pod: Pod) -> str:
    """Return a digest of the names of injectable containers, in any order."""
    sidecars = [container for container in pod.spec.init_containers or () if container.restart_policy == "Always"]
    listed = ",".join(sorted(container.name for container in (*sidecars, *pod.spec.containers)))
    return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_complete(pod: Pod) -> bool:
    """Return whether the last call has seen the same containers."""
    return pod.annotations.get(pod_annotations.HANDLED) == containers_digest(pod)


def _has_volumes(found: ExistingInjection) -> bool:
    mounted = {mount.name for mount in found.container.volume_mounts or ()}
    needed = {contract.SHARE_VOLUME}
    if found.agent:
        needed |= {contract.BIN_VOLUME} if found.csi else {contract.BIN_VOLUME, contract.CONFIG_VOLUME}
    data = {contract.DATA_VOLUME} if found.read_only else set[str]()
    return needed <= mounted and needed | data <= found.volumes.keys()


def _is_own_mount(mount: Mount) -> bool:
    """Return whether it is a file or directory for an injected container; users' mounts hardly are all of this."""
    return mount.name == contract.SHARE_VOLUME and mount.mount_path in _OWN_PATHS and bool(mount.sub_path)


def _is_empty_dir(volume: Volume | None) -> bool:
    return volume is not None and volume.empty_dir is not None


def _is_csi_volume(volume: Volume | None) -> bool:
    return volume is not None and volume.csi is not None and volume.csi.driver == identifiers.DRIVER_NAME
