"""The injection of a pod by an earlier call.

With CSI it is recognised by the agent's volume with attributes of the webhook, and by containers that mount it. Without
CSI it is recognised by the init container with our name and command, and the volumes that it mounts. An annotation
alone proves nothing, since every user can write one.

Another webhook may have removed or changed a part of it. What then does not work is recognised by mounts and volumes
that only an injection has.

Earlier releases had the init container with CSI, too. A pod that one of their replicas has injected may still come back
during an update of the webhook.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from oneagent.common import agents, identifiers
from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.injection import contract, volume_attributes
from oneagent.webhook.injection.pod_model import Container, Mount, Pod, Volume

_CONTAINER_NAME: Final = re.compile(r"CONTAINER_([0-9]{1,4})_NAME")

_OWN_PATHS: Final = (oneagent.CONTAINER_CONF_PATH, oneagent.ENRICHMENT_PATH, oneagent.CURL_OPTIONS_PATH)
_OWN_ENDS: Final = tuple(f"/{profile.container_path}" for profile in agents.PROFILES if profile.mounts_in_view)
"""Ends of paths below whatever path the agent is installed at"""


@dataclass(frozen=True, slots=True)
class ExistingInitContainer:
    index: int
    """Index of the init container, which another webhook may have moved"""
    container: Container
    numbers: Mapping[str, int]
    """Numbers of the containers that it prepares, by name"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingInjection:
    agent: bool
    enrichment: bool
    csi: bool
    read_only: bool
    user_namespace: bool = False
    install_path: str
    connect_retry: str
    prepared: Collection[str]
    """Names of the containers with the agent"""
    volume_index: int
    """Index of the agent's volume; -1 if there is none"""
    init: ExistingInitContainer | None = None
    profile: AgentProfile = agents.DEFAULT


def find(pod: Pod) -> ExistingInjection | None:
    """Return the injection if it is whole, except for mounts and variables of single containers."""
    indexes = {volume.name: index for index, volume in enumerate(pod.spec.volumes or ())}
    if contract.BIN_VOLUME in indexes and _is_view(agent := (pod.spec.volumes or [])[indexes[contract.BIN_VOLUME]]):
        return _find_view(pod, agent, indexes)
    return _find_init_container(pod, indexes)


def has_remains(pod: Pod) -> bool:
    """Return whether a pod has anything that only an injection adds."""
    return any(True for _ in own_mounts(pod)) or has_view(pod) or has_earlier_view(pod)


def own_mounts(pod: Pod) -> Iterator[Mount]:
    """Yield mounts of files for injected containers."""
    for container in pod.all_containers():
        yield from filter(_is_own_mount, container.volume_mounts or ())


def has_view(pod: Pod) -> bool:
    """Return whether a pod has the agent's volume by the CSI driver, with attributes of the webhook."""
    return any(volume.name == contract.BIN_VOLUME and _is_view(volume) for volume in pod.spec.volumes or ())


def has_earlier_view(pod: Pod) -> bool:
    """Return whether a pod has the volumes that earlier releases added."""
    volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
    agent = volumes.get(contract.BIN_VOLUME)
    if agent is None or not _is_empty_dir(volumes.get(contract.SHARE_VOLUME)):
        return False
    return volume_attributes.CONTAINERS in _attributes(agent)


def containers_digest(pod: Pod, *, init_containers: bool) -> str:
    """Return a digest of the names of injectable containers, in any order."""
    sidecars = [each for each in pod.spec.init_containers or () if init_containers or each.restart_policy == "Always"]
    listed = ",".join(sorted(container.name for container in (*sidecars, *pod.spec.containers)))
    return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _find_view(pod: Pod, agent: Volume, indexes: Mapping[str, int]) -> ExistingInjection | None:
    attributes = _attributes(agent)
    with_agent = attributes[volume_attributes.MODE] == volume_attributes.MODE_APP
    user_namespace = attributes.get(volume_attributes.USER_NAMESPACE) == "true"
    kind = attributes.get(volume_attributes.AGENT, "")
    profile = next((each for each in agents.PROFILES if each.kind == kind), agents.DEFAULT)
    subdirectory = contract.AGENT_SUBDIRECTORY if user_namespace else ""
    mounts = [mount for each in pod.all_containers() for mount in each.volume_mounts or () if mount.name == agent.name]
    install_path = next((mount.normalized_path for mount in mounts if (mount.sub_path or "") == subdirectory), "")
    is_mounted = bool(install_path) if with_agent else any(map(_is_own_mount, mounts))
    read_only = user_namespace or (agent.csi is not None and bool(agent.csi.read_only))
    needs_data = read_only and profile.writable_directories
    if not is_mounted or (needs_data and contract.DATA_VOLUME not in indexes):
        return None
    return ExistingInjection(
        agent=with_agent,
        enrichment=attributes.get(volume_attributes.ENRICHMENT) == "true",
        csi=True,
        read_only=read_only,
        user_namespace=user_namespace,
        install_path=install_path,
        connect_retry=attributes.get(volume_attributes.CONNECT_RETRY, ""),
        prepared=volume_attributes.join(attributes, volume_attributes.CONTAINERS).split(","),
        volume_index=indexes[agent.name],
        profile=profile,
    )


def _find_init_container(pod: Pod, indexes: Mapping[str, int]) -> ExistingInjection | None:
    volumes = pod.spec.volumes or []
    share = indexes.get(contract.SHARE_VOLUME)
    if share is None or not _is_empty_dir(volumes[share]):
        return None
    for index, container in enumerate(pod.spec.init_containers or ()):
        if container.name != contract.INIT_CONTAINER or container.command != [contract.INIT_CONTAINER]:
            continue
        variables = {variable.name: variable.value or "" for variable in container.env or ()}
        matches = ((_CONTAINER_NAME.fullmatch(key), value) for key, value in variables.items())
        numbers = {value: int(match[1]) for match, value in matches if match}
        place = indexes.get(contract.BIN_VOLUME, -1)
        found = ExistingInjection(
            agent=variables.get(Variable.ONEAGENT_INJECTED) == "true",
            enrichment=variables.get(Variable.ENRICHMENT_INJECTED) == "true",
            csi=place >= 0 and _is_of_driver(volumes[place]),
            read_only=variables.get(Variable.VIEW_READ_ONLY) == "true",
            install_path=variables.get(Variable.INSTALL_PATH, ""),
            connect_retry=variables.get(Variable.CONNECT_RETRY, ""),
            prepared=numbers,
            volume_index=place,
            init=ExistingInitContainer(index, container, numbers),
        )
        return found if not container.args and _has_volumes(found, container, indexes) else None
    return None


def _has_volumes(found: ExistingInjection, init: Container, indexes: Mapping[str, int]) -> bool:
    mounted = {mount.name for mount in init.volume_mounts or ()}
    needed = {contract.SHARE_VOLUME}
    if found.agent:
        needed |= {contract.BIN_VOLUME} if found.csi else {contract.BIN_VOLUME, contract.CONFIG_VOLUME}
    data = {contract.DATA_VOLUME} if found.read_only else set[str]()
    return needed <= mounted and needed | data <= indexes.keys()


def _is_own_mount(mount: Mount) -> bool:
    """Return whether it is a file or directory for an injected container; users' mounts hardly are all of this."""
    if not mount.sub_path or not (mount.mount_path in _OWN_PATHS or mount.mount_path.endswith(_OWN_ENDS)):
        return False
    in_view = mount.sub_path.startswith(f"{contract.VIEW_FILES_DIRECTORY}/")
    return mount.name == (contract.BIN_VOLUME if in_view else contract.SHARE_VOLUME)


def _is_empty_dir(volume: Volume | None) -> bool:
    return volume is not None and volume.empty_dir is not None


def _is_of_driver(volume: Volume) -> bool:
    return volume.csi is not None and volume.csi.driver == identifiers.DRIVER_NAME


def _attributes(volume: Volume) -> Mapping[str, str]:
    """Return the attributes of a volume by our driver; none of another volume."""
    return (volume.csi.volume_attributes or {}) if volume.csi is not None and _is_of_driver(volume) else {}


def _is_view(volume: Volume) -> bool:
    """A user who mounts the driver's volume by hand does not write the name that agents report for the pod."""
    attributes = _attributes(volume)
    modes = (volume_attributes.MODE_APP, volume_attributes.MODE_CONF)
    return volume_attributes.BASE_POD_NAME in attributes and attributes.get(volume_attributes.MODE) in modes
