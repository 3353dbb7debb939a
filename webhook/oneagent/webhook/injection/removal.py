"""Removal of an injection, or of one container's part of it, from a pod.

It works on the pod's JSON, so that fields of users which are not in the model stay. Each list is replaced as a whole:
what other webhooks have moved in the meantime needs no indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import agents
from oneagent.common.agents import oneagent
from oneagent.common.injection import contract, pod_annotations, skip_reasons
from oneagent.common.kubernetes.env import Entry
from oneagent.webhook.injection import env, existing, ld_preload
from oneagent.webhook.injection.inputs import InjectionResult, Object
from oneagent.webhook.injection.pod_model import Pod
from oneagent.webhook.injection.skipping import skip_pod

Operation = dict[str, Any]

_KINDS: Final = ("initContainers", "containers")


@dataclass(frozen=True, slots=True)
class Remains:
    """What an injection has put into a pod."""

    volumes: frozenset[str]
    libraries: frozenset[str]
    """Paths that `LD_PRELOAD` may have"""
    variables: Sequence[Entry]
    """Agents' variables, which are removed where they have just these values"""

    def remove_from_pod(self, obj: Object) -> Iterator[Operation]:
        spec = obj["spec"]
        for kind in _KINDS:
            for index, container in enumerate(spec.get(kind) or ()):
                yield from self.remove_from_container(f"/spec/{kind}/{index}", container)
        for index, container in enumerate(spec.get("initContainers") or ()):
            if container["name"] == contract.INIT_CONTAINER:
                only = len(spec["initContainers"]) == 1
                yield {"op": "remove", "path": "/spec/initContainers" + ("" if only else f"/{index}")}
        yield from _filter(spec, "/spec", "imagePullSecrets", lambda secret: secret.get("name") != contract.PULL_SECRET)
        yield from _filter(spec, "/spec", "volumes", lambda volume: volume["name"] not in self.volumes)

    def remove_from_container(self, pointer: str, container: Object) -> Iterator[Operation]:
        """Yield nothing for our init container, and for one that has no mount and no library of ours."""
        if container["name"] == contract.INIT_CONTAINER:
            return
        mounts = list(_filter(container, pointer, "volumeMounts", lambda mount: mount["name"] not in self.volumes))
        yield from mounts
        variables = container.get("env") or []
        kept = ld_preload.without(variables, self.libraries)
        if mounts or kept != variables:
            kept = [variable for variable in kept if not self._is_ours(variable)]
            yield from _replace(f"{pointer}/env", variables, kept)

    def _is_ours(self, variable: Mapping[str, Any]) -> bool:
        return variable in self.variables or env.is_ours(variable)


def take_out(obj: Object, pod: Pod, remains: Remains) -> InjectionResult:
    """Remove all of an injection of which a part is missing.

    What is missing is not added again: who has removed it would do so again, and no further call would notice.
    """
    evictable = pod.annotations.get(pod_annotations.EVICTABLE, "").split(",")
    left = ",".join(volume for volume in evictable if volume and volume not in remains.volumes)
    freed = {pod_annotations.EVICTABLE: left or None}
    return skip_pod(obj, pod, skip_reasons.INCOMPLETE, list(remains.remove_from_pod(obj)), freed)


def find(obj: Object, pod: Pod, variables: Sequence[Entry]) -> Remains:
    """Return the remains of an injection in a pod that certainly had one."""
    mounts = [mount for container in pod.all_containers() for mount in container.volume_mounts or ()]
    paths = [mount.normalized_path for mount in mounts if mount.name == contract.BIN_VOLUME]
    installed = {
        f"{path}/{profile.preload_library}" for profile in agents.PROFILES for path in (profile.install_path, *paths)
    }
    return Remains(frozenset(_volumes(obj, pod)), frozenset(installed), variables)


def _volumes(obj: Object, pod: Pod) -> Iterator[str]:
    """Yield names of our volumes. A pod may have its own of such a name if its injection did not need that one."""
    mounts = [mount for container in pod.all_containers() for mount in container.volume_mounts or ()]
    own = {(mount.name, mount.mount_path) for mount in existing.own_mounts(pod)}
    names = {name for name, _ in own}
    if contract.SHARE_VOLUME in names or existing.has_earlier_view(pod):
        yield contract.SHARE_VOLUME
    # Only OneAgent comes without CSI.
    has_agent = (contract.SHARE_VOLUME, oneagent.CONTAINER_CONF_PATH) in own
    if contract.BIN_VOLUME in names or has_agent or existing.has_view(pod) or existing.has_earlier_view(pod):
        yield contract.BIN_VOLUME
    writable = {name for profile in agents.PROFILES for name in profile.writable_directories}
    if any(mount.sub_path in writable for mount in mounts if mount.name == contract.DATA_VOLUME):
        yield contract.DATA_VOLUME
    for volume in obj["spec"].get("volumes") or ():
        if volume["name"] == contract.CONFIG_VOLUME and contract.PACKAGE_AUDIENCE in str(volume.get("projected")):
            yield contract.CONFIG_VOLUME


def _filter(parent: Object, pointer: str, key: str, keep: Callable[[Mapping[str, Any]], bool]) -> Iterator[Operation]:
    items = parent.get(key) or []
    return _replace(f"{pointer}/{key}", items, [item for item in items if keep(item)])


def _replace(pointer: str, items: Collection[Any], kept: Sequence[Any]) -> Iterator[Operation]:
    if len(kept) == len(items) and list(items) == kept:
        return
    yield {"op": "replace", "path": pointer, "value": kept} if kept else {"op": "remove", "path": pointer}
