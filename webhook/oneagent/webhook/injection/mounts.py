"""What an injected container mounts, and what stands in the way.

A mount of the container's own at the very place is a conflict, for which the container is left out. So is one above
it, unless that is an empty folder to write to: a folder to mount on would have to be made in it, which fails where
nothing can be written (and then the container does not start), and is not wanted in somebody's data.
A mount below ours is fine, its owner wants to have the agent's logs, say. In a view that is read-only it has to be in
one of the folders that agents write to, for the same reason. These are there to mount on, in an empty view as well,
and are ours otherwise: agents could write nothing in such a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneagent.common import identifiers
from oneagent.common.injection import contract
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

Mount = dict[str, Any]


def of_container(name: str, plan: Plan) -> list[Mount]:
    found = []
    if plan.agent:
        found = [_at(contract.BIN_VOLUME, plan.install_path, read_only=plan.read_only)]
        conf = contract.CONTAINER_CONF.format(container=name)
        found.append(_at(contract.SHARE_VOLUME, contract.CONTAINER_CONF_PATH, conf, read_only=True))
        if plan.read_only:
            places = {folder: f"{plan.install_path}/{folder}" for folder in identifiers.WRITABLE_DIRECTORIES}
            found += [_at(contract.DATA_VOLUME, place, folder) for folder, place in places.items()]
        if plan.connect_retry:
            options = contract.CURL_OPTIONS
            found.append(_at(contract.SHARE_VOLUME, contract.CURL_OPTIONS_PATH, options, read_only=True))
    if plan.enrichment:
        folder = contract.ENRICHMENT_FOLDER
        found.append(_at(contract.SHARE_VOLUME, contract.ENRICHMENT_PATH, folder, read_only=True))
    return found


def of_init_container(plan: Plan) -> list[Mount]:
    found = [_at(contract.SHARE_VOLUME, contract.SHARE_FOLDER)]
    if plan.agent:
        found.insert(0, _at(contract.BIN_VOLUME, contract.BIN_FOLDER, read_only=plan.csi))
        if not plan.csi:
            found.append(_at(contract.CONFIG_VOLUME, contract.CONFIG_FOLDER, read_only=True))
    return found


def missing(container: Container, wanted: list[Mount]) -> list[Mount]:
    there = {mount.place for mount in container.volume_mounts or ()}
    return [mount for mount in wanted if mount["mountPath"] not in there]


@dataclass(frozen=True, slots=True)
class MountConflicts:
    """Where something is to be mounted, which is the same in all containers of a pod."""

    ours: frozenset[str]
    """Names of the volumes."""
    places: frozenset[str]
    above: frozenset[str]
    """All folders on the way to them."""
    scratch: frozenset[str]
    """Names of the pod's own empty folders."""
    closed: str
    """A folder in which nothing can be mounted, with a slash at its end; empty for none."""
    open: frozenset[str]
    """Folders in it in which that can be done all the same."""

    def conflict(self, container: Container) -> str:
        """The place of the container's first mount that is in the way; empty if there is none."""
        for mount in container.volume_mounts or ():
            path = mount.place
            if mount.name in self.ours:
                continue
            writable = mount.name in self.scratch and not mount.read_only
            if path in self.places or (path in self.above and not writable):
                return path
            if self.closed and path.startswith(self.closed) and not self._is_open(path):
                return path
        return ""

    def _is_open(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{folder}/") for folder in self.open)


def ground(plan: Plan, pod: Pod) -> MountConflicts:
    wanted = of_container("", plan)
    data = frozenset(mount["mountPath"] for mount in wanted if mount["name"] == contract.DATA_VOLUME)
    places = frozenset(mount["mountPath"] for mount in wanted) - data
    above = frozenset(place[:end] or "/" for place in places for end, letter in enumerate(place) if letter == "/")
    scratch = frozenset(volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None)
    ours = frozenset(mount["name"] for mount in wanted)
    return MountConflicts(ours, places, above, scratch, f"{plan.install_path}/" if plan.read_only else "", data)


def _at(volume: str, path: str, below: str = "", *, read_only: bool = False) -> Mount:
    mount: Mount = {"name": volume, "mountPath": path}
    if below:
        mount["subPath"] = below
    if read_only:
        mount["readOnly"] = True
    return mount
