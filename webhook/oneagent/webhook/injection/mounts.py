"""What an injected container mounts, and what stands in the way.

A mount of the container's own at the very place is a conflict, for which the container is left out. So is one above
it, unless that is an empty folder to write to: a folder to mount on would have to be made in it, which fails where
nothing can be written (and then the container does not start), and is not wanted in somebody's data.
A mount below ours is fine, its owner wants to have the agent's logs, say; but not in a view that is read-only, for the
same reason. Nor do we mount anything to write to over such a view: an empty view has no folder to mount on.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

from oneagent.common import injected
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pods import Container, Pod

Mount = dict[str, Any]


def of_container(name: str, plan: Plan) -> list[Mount]:
    found = []
    if plan.agent:
        found = [_at(injected.BIN_VOLUME, plan.install_path, read_only=plan.read_only)]
        conf = injected.CONTAINER_CONF.format(container=name)
        found.append(_at(injected.SHARE_VOLUME, injected.CONTAINER_CONF_PATH, conf, read_only=True))
        if plan.connect_retry:
            options = injected.CURL_OPTIONS
            found.append(_at(injected.SHARE_VOLUME, injected.CURL_OPTIONS_PATH, options, read_only=True))
    if plan.enrichment:
        folder = injected.ENRICHMENT_FOLDER
        found.append(_at(injected.SHARE_VOLUME, injected.ENRICHMENT_PATH, folder, read_only=True))
    return found


def of_init_container(plan: Plan) -> list[Mount]:
    found = [_at(injected.SHARE_VOLUME, injected.SHARE_FOLDER)]
    if plan.agent:
        found.insert(0, _at(injected.BIN_VOLUME, injected.BIN_FOLDER, read_only=plan.csi))
        if not plan.csi:
            found.append(_at(injected.CONFIG_VOLUME, injected.CONFIG_FOLDER, read_only=True))
    return found


def missing(container: Container, wanted: list[Mount]) -> list[Mount]:
    there = {posixpath.normpath(mount.mount_path) for mount in container.volume_mounts or ()}
    return [mount for mount in wanted if mount["mountPath"] not in there]


@dataclass(frozen=True, slots=True)
class Ground:
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

    def conflict(self, container: Container) -> str:
        """The place of the container's first mount that is in the way; empty if there is none."""
        for mount in container.volume_mounts or ():
            path = posixpath.normpath(mount.mount_path)
            if mount.name in self.ours:
                continue
            writable = mount.name in self.scratch and not mount.read_only
            if path in self.places or (path in self.above and not writable):
                return path
            if self.closed and path.startswith(self.closed):
                return path
        return ""


def ground(plan: Plan, pod: Pod) -> Ground:
    wanted = of_container("", plan)
    places = frozenset(mount["mountPath"] for mount in wanted)
    above = frozenset(place[:end] or "/" for place in places for end, letter in enumerate(place) if letter == "/")
    scratch = frozenset(volume.name for volume in pod.spec.volumes or () if volume.empty_dir is not None)
    ours = frozenset(mount["name"] for mount in wanted)
    return Ground(ours, places, above, scratch, f"{plan.install_path}/" if plan.read_only else "")


def _at(volume: str, path: str, below: str = "", *, read_only: bool = False) -> Mount:
    mount: Mount = {"name": volume, "mountPath": path}
    if below:
        mount["subPath"] = below
    if read_only:
        mount["readOnly"] = True
    return mount
