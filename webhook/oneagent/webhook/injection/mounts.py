"""Mounts of an injected container, and conflicts with its own mounts.

A container cannot have our mount if it has its own mount at the same path. Neither can it if it has one above our path,
unless that is a writable emptyDir: the runtime would have to create a mount point in it. That fails where nothing can
be written (and then the container does not start), and users' data must stay unchanged.
A mount below our path is allowed, for example for the agent's logs. In a read-only directory of ours, for the same
reason, it is not. In a read-only view it must be in one of the directories that agents write to. Every view has these
as mount points, an empty one too. Otherwise they are our emptyDir, since agents cannot write in such a view.

For a pod with a user namespace the volume is a plain directory instead of a view. It has the agent as installed, which
other pods share, in a subdirectory, and beside it the agent's configuration, which is mounted over the package's.

A container with the agent can do without the metadata files and without the options for connections: it only lacks
that mount. In any other conflict the container is not injected.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

Mount = dict[str, Any]


def of_container(name: str, plan: Plan) -> list[Mount]:
    mounts = list(_of_agent(plan)) if plan.agent else []
    if plan.agent:
        mounts.append(_file(plan, plan.container_path, plan.profile.container_file.format(container=name)))
        if plan.connect_retry:
            mounts.append(_file(plan, oneagent.CURL_OPTIONS_PATH, oneagent.CURL_OPTIONS))
    if plan.enrichment:
        mounts.append(_file(plan, oneagent.ENRICHMENT_PATH, oneagent.ENRICHMENT_DIRECTORY))
    return mounts


def of_init_container(plan: Plan) -> list[Mount]:
    share = _mount(contract.SHARE_VOLUME, contract.SHARE_DIRECTORY)
    if not plan.agent:
        return [share]
    config = _mount(contract.CONFIG_VOLUME, contract.CONFIG_DIRECTORY, read_only=True)
    return [_mount(contract.BIN_VOLUME, contract.BIN_DIRECTORY), share, config]


def _of_agent(plan: Plan) -> Iterator[Mount]:
    subdirectory = contract.AGENT_SUBDIRECTORY if plan.user_namespace else ""
    yield _mount(contract.BIN_VOLUME, plan.install_path, subdirectory, read_only=plan.read_only)
    if plan.user_namespace:
        for conf in plan.profile.config_files:
            yield _mount(contract.BIN_VOLUME, f"{plan.install_path}/{conf}", conf, read_only=True)
    for directory in plan.profile.writable_directories if plan.read_only else ():
        yield _mount(contract.DATA_VOLUME, f"{plan.install_path}/{directory}", directory)


def _file(plan: Plan, path: str, name: str) -> Mount:
    """Return the mount of one of the pod's own files."""
    if plan.init_container:
        return _mount(contract.SHARE_VOLUME, path, name, read_only=True)
    return _mount(contract.BIN_VOLUME, path, f"{contract.VIEW_FILES_DIRECTORY}/{name}", read_only=True)


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
    enrichment = _conflicts(frozenset({oneagent.ENRICHMENT_PATH}), read_only_path=f"{oneagent.ENRICHMENT_PATH}/")
    optional = {oneagent.ENRICHMENT_PATH: enrichment} if plan.enrichment else {}
    if plan.connect_retry:
        optional[oneagent.CURL_OPTIONS_PATH] = _conflicts(frozenset({oneagent.CURL_OPTIONS_PATH}))
    required = _conflicts(
        frozenset(mount["mountPath"] for mount in mounts).difference(data, optional),
        read_only_path=f"{plan.install_path}/" if plan.read_only else "",
        writable_paths=data,
    )
    return MountConflicts(
        own_volumes=frozenset(mount["name"] for mount in mounts),
        empty_dirs=frozenset(volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None),
        required=required if plan.agent else enrichment,
        optional=optional if plan.agent else {},
    )


@functools.lru_cache(64)
def _conflicts(
    mount_paths: frozenset[str], *, read_only_path: str = "", writable_paths: frozenset[str] = frozenset()
) -> _Conflicts:
    parents = frozenset(path[:end] or "/" for path in mount_paths for end, letter in enumerate(path) if letter == "/")
    return _Conflicts(mount_paths, parents, read_only_path, writable_paths)


def _mount(volume: str, path: str, below: str = "", *, read_only: bool = False) -> Mount:
    mount: Mount = {"name": volume, "mountPath": path}
    if below:
        mount["subPath"] = below
    if read_only:
        mount["readOnly"] = True
    return mount
