"""Mounts of an injected container, and conflicts with its own mounts.

A container cannot have our mount if it has its own mount at the same path. Neither can it if it has one above our path,
unless that is a writable emptyDir: the runtime would have to create a mount point in it. That fails where nothing can
be written (and then the container does not start), and users' data must stay unchanged.
A mount below our path is allowed, for example for the agent's logs. In a read-only directory of ours, for the same
reason, it is not. In a read-only view it must be in one of the directories that agents write to. Every view has these
as mount points, an empty one too. Otherwise they are our emptyDir, since agents cannot write in such a view.

A container with the agent can do without the metadata files and without the options for connections: it only lacks
that mount. In any other conflict the container is not injected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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


def missing(container: Container, required: list[Mount], left_out: Collection[str] = ()) -> list[Mount]:
    """Return the mounts that a container lacks, without those at the paths `left_out`."""
    mounted_paths = {*left_out, *(mount.normalized_path for mount in container.volume_mounts or ())}
    return [mount for mount in required if mount["mountPath"] not in mounted_paths]


@dataclass(frozen=True, slots=True)
class _Conflicts:
    """Paths of some of our mounts, to compare with containers' own mounts."""

    mount_paths: frozenset[str]
    parent_paths: frozenset[str]
    """All parent directories of `mount_paths`"""
    read_only_path: str = ""
    """Directory without further mount points, with a slash at its end; empty for none"""
    writable_paths: frozenset[str] = frozenset()
    """Directories in it that have mount points"""

    def has(self, path: str, *, writable: bool) -> bool:
        """Return whether a container's own mount, which may be a writable emptyDir, conflicts."""
        if path in self.mount_paths or (path in self.parent_paths and not writable):
            return True
        return bool(self.read_only_path) and path.startswith(self.read_only_path) and not self._is_writable(path)

    def _is_writable(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{directory}/") for directory in self.writable_paths)


@dataclass(frozen=True, slots=True)
class MountConflicts:
    """Conflicts of our mounts with those of a pod's containers."""

    own_volumes: frozenset[str]
    """Names of our volumes"""
    empty_dirs: frozenset[str]
    """Names of the pod's own emptyDir volumes"""
    required: _Conflicts
    optional: Mapping[str, _Conflicts]
    """By path: mounts that a container can do without"""

    def find(self, container: Container) -> str:
        """Return the path of the first own mount that excludes a container; empty if there is none."""
        return self._first(container, self.required)

    def find_optional(self, container: Container) -> dict[str, str]:
        """Return the paths of our mounts that a container cannot have, each with that of its own conflicting mount."""
        found = {path: self._first(container, conflicts) for path, conflicts in self.optional.items()}
        return {path: own for path, own in found.items() if own}

    def _first(self, container: Container, conflicts: _Conflicts) -> str:
        for mount in container.volume_mounts or ():
            if mount.name in self.own_volumes:
                continue
            path = mount.normalized_path
            if conflicts.has(path, writable=mount.name in self.empty_dirs and not mount.read_only):
                return path
        return ""


def mount_conflicts(plan: Plan, pod: Pod) -> MountConflicts:
    mounts = of_container("", plan)
    data = frozenset(mount["mountPath"] for mount in mounts if mount["name"] == contract.DATA_VOLUME)
    enrichment = _conflicts({contract.ENRICHMENT_PATH}, read_only_path=f"{contract.ENRICHMENT_PATH}/")
    optional = {contract.ENRICHMENT_PATH: enrichment} if plan.enrichment else {}
    if plan.connect_retry:
        optional[contract.CURL_OPTIONS_PATH] = _conflicts({contract.CURL_OPTIONS_PATH})
    required = _conflicts(
        {mount["mountPath"] for mount in mounts} - data - optional.keys(),
        read_only_path=f"{plan.install_path}/" if plan.read_only else "",
        writable_paths=data,
    )
    return MountConflicts(
        own_volumes=frozenset(mount["name"] for mount in mounts),
        empty_dirs=frozenset(volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None),
        required=required if plan.agent else enrichment,
        optional=optional if plan.agent else {},
    )


def _conflicts(
    mount_paths: Iterable[str], *, read_only_path: str = "", writable_paths: frozenset[str] = frozenset()
) -> _Conflicts:
    paths = frozenset(mount_paths)
    parents = frozenset(path[:end] or "/" for path in paths for end, letter in enumerate(path) if letter == "/")
    return _Conflicts(paths, parents, read_only_path, writable_paths)


def _mount(volume: str, path: str, below: str = "", *, read_only: bool = False) -> Mount:
    mount: Mount = {"name": volume, "mountPath": path}
    if below:
        mount["subPath"] = below
    if read_only:
        mount["readOnly"] = True
    return mount
