"""Mounts of an injected container, and conflicts with its own mounts.

A container with its own mount at one of our paths is not injected. Neither is one with a mount above our path, unless
that is a writable emptyDir: the runtime would have to create a mount point in it. That fails where nothing can be
written (and then the container does not start), and users' data must stay unchanged.
A mount below our path is allowed, for example for the agent's logs. In a read-only view, for the same reason, it must
be in one of the directories that agents write to. Every view has these as mount points, an empty one too. Otherwise
they are our emptyDir, since agents cannot write in such a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneagent.common.injection import contract
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

Mount = dict[str, Any]


def of_container(name: str, plan: Plan) -> list[Mount]:
    mounts = []
    if plan.agent:
        mounts = [_mount(contract.BIN_VOLUME, plan.install_path, read_only=plan.read_only)]
        conf = contract.CONTAINER_CONF.format(container=name)
        mounts.append(_mount(contract.SHARE_VOLUME, contract.CONTAINER_CONF_PATH, conf, read_only=True))
        if plan.read_only:
            mount_paths = {directory: f"{plan.install_path}/{directory}" for directory in contract.WRITABLE_DIRECTORIES}
            mounts += [_mount(contract.DATA_VOLUME, path, directory) for directory, path in mount_paths.items()]
        if plan.connect_retry:
            options = contract.CURL_OPTIONS
            mounts.append(_mount(contract.SHARE_VOLUME, contract.CURL_OPTIONS_PATH, options, read_only=True))
    if plan.enrichment:
        directory = contract.ENRICHMENT_DIRECTORY
        mounts.append(_mount(contract.SHARE_VOLUME, contract.ENRICHMENT_PATH, directory, read_only=True))
    return mounts


def of_init_container(plan: Plan) -> list[Mount]:
    mounts = [_mount(contract.SHARE_VOLUME, contract.SHARE_DIRECTORY)]
    if plan.agent:
        mounts.insert(0, _mount(contract.BIN_VOLUME, contract.BIN_DIRECTORY, read_only=plan.csi))
        if not plan.csi:
            mounts.append(_mount(contract.CONFIG_VOLUME, contract.CONFIG_DIRECTORY, read_only=True))
    return mounts


def missing(container: Container, required: list[Mount]) -> list[Mount]:
    mounted_paths = {mount.normalized_path for mount in container.volume_mounts or ()}
    return [mount for mount in required if mount["mountPath"] not in mounted_paths]


@dataclass(frozen=True, slots=True)
class MountConflicts:
    """Paths of our mounts in all containers of a pod, to compare with containers' own mounts."""

    own_volumes: frozenset[str]
    """Names of our volumes"""
    mount_paths: frozenset[str]
    parent_paths: frozenset[str]
    """All parent directories of `mount_paths`"""
    empty_dirs: frozenset[str]
    """Names of the pod's own emptyDir volumes"""
    read_only_path: str
    """Directory without further mount points, with a slash at its end; empty for none"""
    writable_paths: frozenset[str]
    """Directories in it that have mount points"""

    def find(self, container: Container) -> str:
        """Return the path of the container's first conflicting mount; empty if there is none."""
        for mount in container.volume_mounts or ():
            path = mount.normalized_path
            if mount.name in self.own_volumes:
                continue
            writable = mount.name in self.empty_dirs and not mount.read_only
            if path in self.mount_paths or (path in self.parent_paths and not writable):
                return path
            if self.read_only_path and path.startswith(self.read_only_path) and not self._is_writable(path):
                return path
        return ""

    def _is_writable(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{directory}/") for directory in self.writable_paths)


def mount_conflicts(plan: Plan, pod: Pod) -> MountConflicts:
    required = of_container("", plan)
    data = frozenset(mount["mountPath"] for mount in required if mount["name"] == contract.DATA_VOLUME)
    mount_paths = frozenset(mount["mountPath"] for mount in required) - data
    parent_paths = frozenset(
        path[:end] or "/" for path in mount_paths for end, letter in enumerate(path) if letter == "/"
    )
    empty_dirs = frozenset(volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None)
    own_volumes = frozenset(mount["name"] for mount in required)
    return MountConflicts(
        own_volumes, mount_paths, parent_paths, empty_dirs, f"{plan.install_path}/" if plan.read_only else "", data
    )


def _mount(volume: str, path: str, below: str = "", *, read_only: bool = False) -> Mount:
    mount: Mount = {"name": volume, "mountPath": path}
    if below:
        mount["subPath"] = below
    if read_only:
        mount["readOnly"] = True
    return mount
