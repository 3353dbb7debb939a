"""The patch of a pod, with its warnings and Events.

The first call injects a pod. A reinvocation, after another webhook has changed the pod, extends the injection.
Application containers get the agent, and so do sidecars (init containers with `restartPolicy: Always`), which run
beside them. Other init containers do not, since they end too early to be monitored. Our init container comes first, so
that it has ended when the others start. If another webhook puts its own before it, the order stays, and a sidecar that
starts before ours gets nothing that it would have to wait for. Ephemeral containers are added after admission.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from oneagent.common.injection import contract, pod_annotations, skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason, Visibility
from oneagent.common.kubernetes import fields
from oneagent.webhook import json_patch
from oneagent.webhook.injection import (
    dynakube_settings,
    exclusions,
    existing,
    init_container,
    ld_preload,
    mounts,
    plan,
    pod_model,
    resources,
    volumes,
)
from oneagent.webhook.injection import env as injection_env
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.existing import Present
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext
from oneagent.webhook.injection.plan import Plan, Settings
from oneagent.webhook.injection.pod_model import Container, Pod, Variable

LEFT_OUT = "ContainerLeftOut"
"""Reason of the Event about a container whose own mounts are at the agent's paths."""

Operation = dict[str, Any]


def inject(pod: Object, facts: PodContext, settings: Settings) -> InjectionResult:
    """What is to become of a pod. Pure: the same arguments give the same answer."""
    try:
        read = pod_model.read(pod)
    except msgspec.ValidationError as error:
        return _notify(replace(skip_reasons.NOT_UNDERSTOOD, detail=str(error)), "*", ())
    if skip := exclusions.none_of_ours(read, facts, settings.own_namespace):
        return InjectionResult(injected=False, reason=skip.reason)
    found = existing.find(read)
    if found is not None and existing.is_complete(read):
        return InjectionResult(injected=True, reason="")
    kube = _kube(facts, settings)
    if found is not None:
        return _reinvoke(pod, read, facts, settings, kube, found)
    return _inject_new(pod, read, facts, settings, kube)


def _inject_new(
    pod: Object, read: Pod, facts: PodContext, settings: Settings, kube: Kube | SkipReason
) -> InjectionResult:
    if isinstance(kube, Kube) and exclusions.is_ignored(facts.namespace, kube):
        return InjectionResult(injected=False, reason=skip_reasons.NAMESPACE_IGNORED.reason)
    if skip := exclusions.never_injected(read):
        return _skipped(pod, read, skip)
    if isinstance(kube, SkipReason):
        return _skipped(pod, read, kube)
    return PatchBuilder(pod, read, facts, kube, settings).build()


def _reinvoke(
    pod: Object, read: Pod, facts: PodContext, settings: Settings, kube: Kube | SkipReason, found: Present
) -> InjectionResult:
    planned = plan.again(found)
    if planned is None or isinstance(kube, SkipReason) or not kube.is_on("webhook-reinvocation-policy"):
        return InjectionResult(injected=True, reason="")
    return PatchBuilder(pod, read, facts, kube, settings).extend(found, planned)


def _kube(facts: PodContext, settings: Settings) -> Kube | SkipReason:
    if facts.dynakube is None:
        return skip_reasons.DYNAKUBE_MISSING
    try:
        return dynakube_settings.read(facts.dynakube, settings.own_namespace)
    except fields.FieldError as error:
        return replace(skip_reasons.DYNAKUBE_UNUSABLE, detail=str(error))


def _skipped(pod: Object, read: Pod, skip: SkipReason) -> InjectionResult:
    told = {
        pod_annotations.AGENT_INJECTED: "false",
        pod_annotations.REASON: skip.reason,
        pod_annotations.DYNAKUBE_INJECTED: "false",
        pod_annotations.ENRICHMENT_INJECTED: None,
        pod_annotations.HANDLED: None,
    }
    return _notify(
        skip, read.name, json_patch.metadata(pod, "annotations", told), pod_annotations.unclear(read.annotations)
    )


def _notify(skip: SkipReason, name: str, patch: Sequence[Operation], warnings: Sequence[str] = ()) -> InjectionResult:
    if skip.visibility is not Visibility.WARN:
        return InjectionResult(injected=False, reason=skip.reason, patch=patch, warnings=warnings)
    text = f"pod {name} is left as it is: {skip}"
    notice = Notice("Warning", skip.reason, text)
    return InjectionResult(
        injected=False, reason=skip.reason, patch=patch, warnings=(text, *warnings), notices=(notice,)
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """A container that may be injected, and its JSON pointer."""

    place: str
    container: Container


@dataclass(slots=True)
class PatchBuilder:
    """Builds the JSON patch of one pod; the order of its operations keeps their indexes right."""

    pod: Object
    read: Pod
    facts: PodContext
    kube: Kube
    settings: Settings
    operations: list[Operation] = field(default_factory=list)
    conflicts: dict[str, str] = field(default_factory=dict)
    """By container, the path of the mount that excludes it."""

    def build(self) -> InjectionResult:
        planned = plan.fresh(self.read, self.facts, self.kube)
        if isinstance(planned, SkipReason):
            return _skipped(self.pod, self.read, planned)
        if skip := self._conflict(planned):
            return _skipped(self.pod, self.read, skip)
        included = list(self._included(planned, after=-1))
        if not included:
            return self._no_container()
        containers = [target.container for target in included]
        made = volumes.of_pod(self.read, planned, self.kube, [container.name for container in containers])
        self._annotate(planned, [volume["name"] for volume in made if "emptyDir" in volume])
        self._change(included, planned)
        self._append("/spec/volumes", self.read.spec.volumes, made)
        ours = init_container.make(self.read, self.facts, self.kube, self.settings, planned, containers)
        self._prepend("/spec/initContainers", self.read.spec.init_containers, ours)
        return self._result(self._warnings())

    def extend(self, found: Present, planned: Plan) -> InjectionResult:
        told = {pod_annotations.HANDLED: existing.seen(self.read)}
        self.operations += json_patch.metadata(self.pod, "annotations", told)
        included = list(self._included(planned, after=found.index))
        self._change(included, planned)
        new = [target.container for target in included if target.container.name not in found.numbered]
        if planned.agent and new:
            self._extend_init_container(found, new)
            self._extend_driver_attributes(found, new)
        return self._result([])

    def _conflict(self, planned: Plan) -> SkipReason | None:
        if taken := volumes.reserved(planned) & {volume.name for volume in self.read.spec.volumes or ()}:
            return replace(skip_reasons.CONFLICTING_VOLUME, detail=", ".join(sorted(taken)))
        if any(container.name == contract.INIT_CONTAINER for container in self.read.everything()):
            return replace(skip_reasons.CONFLICTING_CONTAINER, detail=contract.INIT_CONTAINER)
        return None

    def _included(self, planned: Plan, after: int) -> Iterator[_Target]:
        ground = mounts.ground(planned, self.read)
        for target in _targets(self.read, after):
            container = target.container
            if plan.is_excluded(container, self.read, self.kube):
                continue
            if place := ground.conflict(container):
                self.conflicts[container.name] = place
            else:
                yield target

    def _no_container(self) -> InjectionResult:
        if not self.conflicts:
            return _skipped(self.pod, self.read, skip_reasons.CONTAINERS_EXCLUDED)
        return _skipped(self.pod, self.read, replace(skip_reasons.CONFLICTING_MOUNTS, detail=_listed(self.conflicts)))

    def _annotate(self, planned: Plan, folders: Sequence[str]) -> None:
        evictable = self.read.annotations.get(pod_annotations.EVICTABLE, "")
        told = {
            pod_annotations.AGENT_INJECTED: "true" if planned.agent else "false",
            pod_annotations.REASON: planned.agent_off.reason if planned.agent_off else None,
            pod_annotations.ENRICHMENT_INJECTED: "true" if planned.enrichment else None,
            pod_annotations.DYNAKUBE_INJECTED: "true",
            pod_annotations.EVICTABLE: ",".join([*filter(None, [evictable]), *folders]),
            pod_annotations.HANDLED: existing.seen(self.read),
        }
        self.operations += json_patch.metadata(self.pod, "annotations", told)

    def _change(self, targets: Sequence[_Target], planned: Plan) -> None:
        """Add to containers what they lack: `LD_PRELOAD`, agents' variables, mounts."""
        told = injection_env.of_agents(self.facts, self.kube, self.settings) if planned.agent else []
        for target in targets:
            container = target.container
            if planned.agent:
                self._preload(f"{target.place}/env", container.env or [], planned.library, told)
            missing = mounts.missing(container, mounts.of_container(container.name, planned))
            self._append(f"{target.place}/volumeMounts", container.volume_mounts, missing)

    def _preload(self, place: str, env: Sequence[Variable], library: str, told: Sequence[Operation]) -> None:
        there = {variable.name for variable in env}
        new = [entry for entry in told if entry["name"] not in there]
        if env:
            self.operations += ld_preload.operations(place, env, library)
        else:
            new.insert(0, injection_env.plain(ld_preload.NAME, library))
        self._append(place, env, new)

    def _extend_init_container(self, found: Present, new: Sequence[Container]) -> None:
        place = f"/spec/initContainers/{found.index}/env"
        env = found.container.env or []
        last = max(found.numbered.values(), default=0)
        count = injection_env.plain(contract.Variable.CONTAINERS, str(last + len(new)))
        told = init_container.about_containers(new, first=last + 1)
        names = [variable.name for variable in env]
        if contract.Variable.CONTAINERS in names:
            path = f"{place}/{names.index(contract.Variable.CONTAINERS)}"
            self.operations.append({"op": "replace", "path": path, "value": count})
        else:
            told.append(count)
        self._append(place, env, told)

    def _extend_driver_attributes(self, found: Present, new: Sequence[Container]) -> None:
        if not found.csi:
            return
        index = found.volumes[contract.BIN_VOLUME]
        csi = (self.read.spec.volumes or [])[index].csi
        if csi is not None and csi.volume_attributes:
            known = csi.volume_attributes.get("containers", "")
            named = ",".join([*filter(None, known.split(",")), *(container.name for container in new)])
            path = f"/spec/volumes/{index}/csi/volumeAttributes/containers"
            self.operations.append({"op": "add", "path": path, "value": named})

    def _append(self, place: str, there: Sequence[object] | None, new: Sequence[object]) -> None:
        if there:
            self.operations += ({"op": "add", "path": f"{place}/-", "value": value} for value in new)
        elif new:
            self.operations.append({"op": "add", "path": place, "value": list(new)})

    def _prepend(self, place: str, there: Sequence[object] | None, new: Operation) -> None:
        if there:
            self.operations.append({"op": "add", "path": f"{place}/0", "value": new})
        else:
            self.operations.append({"op": "add", "path": place, "value": [new]})

    def _warnings(self) -> list[str]:
        _, policy = plan.failure_policy(self.read, self.kube)
        found = [
            policy,
            resources.unusable(self.kube),
            volumes.unusable_size(self.read),
            *injection_env.unusable_release_fields(self.facts, self.kube),
        ]
        return [*filter(None, found), *pod_annotations.unclear(self.read.annotations)]

    def _result(self, warnings: Sequence[str]) -> InjectionResult:
        if not self.conflicts:
            return InjectionResult(injected=True, reason="", patch=self.operations, warnings=warnings)
        text = f"pod {self.read.name}: containers are left out that have mounts of their own where something is to be "
        text += f"mounted: {_listed(self.conflicts)}; {skip_reasons.CONFLICTING_MOUNTS.remedy}"
        notice = Notice("Warning", LEFT_OUT, text)
        return InjectionResult(True, "", self.operations, (text, *warnings), (notice,))


def _targets(pod: Pod, after: int) -> Iterator[_Target]:
    for index, container in enumerate(pod.spec.init_containers or ()):
        if index > after and container.restart_policy == "Always":
            yield _Target(f"/spec/initContainers/{index}", container)
    for index, container in enumerate(pod.spec.containers):
        yield _Target(f"/spec/containers/{index}", container)


def _listed(conflicts: dict[str, str]) -> str:
    return ", ".join(f"{container} ({place})" for container, place in conflicts.items())
