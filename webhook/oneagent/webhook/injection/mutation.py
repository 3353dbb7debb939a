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
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.existing import ExistingInjection
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext
from oneagent.webhook.injection.plan import Plan, Settings
from oneagent.webhook.injection.pod_model import Container, Pod, Variable

CONTAINER_SKIPPED = "ContainerNotInjected"
"""Reason of the Event about containers with their own mounts at the agent's paths"""

Operation = dict[str, Any]


def inject(obj: Object, context: PodContext, settings: Settings) -> InjectionResult:
    """Return the patch of a pod. Pure: the same arguments give the same result."""
    try:
        pod = pod_model.parse(obj)
    except msgspec.ValidationError as error:
        return _notify(replace(skip_reasons.INVALID_POD, detail=str(error)), "*", ())
    if skip := exclusions.find_out_of_scope(pod, context, settings.own_namespace):
        return InjectionResult(injected=False, reason=skip.reason)
    found = existing.find(pod)
    if skip := exclusions.find_oversize(pod):
        return InjectionResult(injected=True, reason="") if found is not None else _skipped(obj, pod, skip)
    if found is not None and existing.is_complete(pod):
        return InjectionResult(injected=True, reason="")
    dynakube = _read_dynakube(context, settings)
    if found is not None:
        return _reinvoke(obj, pod, context, settings, dynakube, found)
    return _inject_new(obj, pod, context, settings, dynakube)


def _inject_new(
    obj: Object, pod: Pod, context: PodContext, settings: Settings, dynakube: DynaKubeSettings | SkipReason
) -> InjectionResult:
    if isinstance(dynakube, DynaKubeSettings) and exclusions.is_ignored(context.namespace, dynakube):
        return InjectionResult(injected=False, reason=skip_reasons.NAMESPACE_IGNORED.reason)
    if skip := exclusions.find_exclusion(pod):
        return _skipped(obj, pod, skip)
    if isinstance(dynakube, SkipReason):
        return _skipped(obj, pod, dynakube)
    return PatchBuilder(obj, pod, context, dynakube, settings).build()


def _reinvoke(
    obj: Object,
    pod: Pod,
    context: PodContext,
    settings: Settings,
    dynakube: DynaKubeSettings | SkipReason,
    found: ExistingInjection,
) -> InjectionResult:
    pod_plan = plan.restore(found)
    if pod_plan is None or isinstance(dynakube, SkipReason) or not dynakube.is_on("webhook-reinvocation-policy"):
        return InjectionResult(injected=True, reason="")
    return PatchBuilder(obj, pod, context, dynakube, settings).extend(found, pod_plan)


def _read_dynakube(context: PodContext, settings: Settings) -> DynaKubeSettings | SkipReason:
    if context.dynakube is None:
        return skip_reasons.DYNAKUBE_MISSING
    try:
        return dynakube_settings.read(context.dynakube, settings.own_namespace)
    except fields.FieldError as error:
        return replace(skip_reasons.DYNAKUBE_UNUSABLE, detail=str(error))


def _skipped(obj: Object, pod: Pod, skip: SkipReason) -> InjectionResult:
    annotations = {
        pod_annotations.AGENT_INJECTED: "false",
        pod_annotations.REASON: skip.reason,
        pod_annotations.DYNAKUBE_INJECTED: "false",
        pod_annotations.ENRICHMENT_INJECTED: None,
        pod_annotations.HANDLED: None,
    }
    return _notify(
        skip,
        pod.name,
        json_patch.metadata(obj, "annotations", annotations),
        pod_annotations.invalid_switch_warnings(pod.annotations),
    )


def _notify(skip: SkipReason, name: str, patch: Sequence[Operation], warnings: Sequence[str] = ()) -> InjectionResult:
    if skip.visibility is not Visibility.WARN:
        return InjectionResult(injected=False, reason=skip.reason, patch=patch, warnings=warnings)
    text = f"pod {name} is not injected: {skip}"
    notice = Notice("Warning", skip.reason, text)
    return InjectionResult(
        injected=False, reason=skip.reason, patch=patch, warnings=(text, *warnings), notices=(notice,)
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """A container that may be injected, and its JSON pointer."""

    pointer: str
    container: Container


@dataclass(slots=True)
class PatchBuilder:
    """Builds the JSON patch of one pod; the order of its operations keeps their indexes right."""

    obj: Object
    pod: Pod
    context: PodContext
    dynakube: DynaKubeSettings
    settings: Settings
    operations: list[Operation] = field(default_factory=list)
    conflicts: dict[str, str] = field(default_factory=dict)
    """By container, the path of the mount that excludes it."""

    def build(self) -> InjectionResult:
        pod_plan = plan.create(self.pod, self.context, self.dynakube)
        if isinstance(pod_plan, SkipReason):
            return _skipped(self.obj, self.pod, pod_plan)
        if skip := self._conflict(pod_plan):
            return _skipped(self.obj, self.pod, skip)
        included = list(self._included(pod_plan, after=-1))
        if not included:
            return self._no_container()
        containers = [target.container for target in included]
        made = volumes.of_pod(self.pod, pod_plan, self.dynakube, [container.name for container in containers])
        self._annotate(pod_plan, [volume["name"] for volume in made if "emptyDir" in volume])
        self._change(included, pod_plan)
        self._append("/spec/volumes", self.pod.spec.volumes, made)
        ours = init_container.build(self.pod, self.context, self.dynakube, self.settings, pod_plan, containers)
        self._prepend("/spec/initContainers", self.pod.spec.init_containers, ours)
        return self._result(self._warnings())

    def extend(self, found: ExistingInjection, pod_plan: Plan) -> InjectionResult:
        annotations = {pod_annotations.HANDLED: existing.containers_digest(self.pod)}
        self.operations += json_patch.metadata(self.obj, "annotations", annotations)
        included = list(self._included(pod_plan, after=found.index))
        self._change(included, pod_plan)
        new = [target.container for target in included if target.container.name not in found.container_numbers]
        if pod_plan.agent and new:
            self._extend_init_container(found, new)
            self._extend_driver_attributes(found, new)
        return self._result([])

    def _conflict(self, pod_plan: Plan) -> SkipReason | None:
        if taken := volumes.reserved(pod_plan) & {volume.name for volume in self.pod.spec.volumes or ()}:
            return replace(skip_reasons.CONFLICTING_VOLUME, detail=", ".join(sorted(taken)))
        if any(container.name == contract.INIT_CONTAINER for container in self.pod.all_containers()):
            return replace(skip_reasons.CONFLICTING_CONTAINER, detail=contract.INIT_CONTAINER)
        return None

    def _included(self, pod_plan: Plan, after: int) -> Iterator[_Target]:
        mount_conflicts = mounts.mount_conflicts(pod_plan, self.pod)
        for target in _targets(self.pod, after):
            container = target.container
            if plan.is_excluded(container, self.pod, self.dynakube):
                continue
            if pointer := mount_conflicts.find(container):
                self.conflicts[container.name] = pointer
            else:
                yield target

    def _no_container(self) -> InjectionResult:
        if not self.conflicts:
            return _skipped(self.obj, self.pod, skip_reasons.CONTAINERS_EXCLUDED)
        return _skipped(
            self.obj, self.pod, replace(skip_reasons.CONFLICTING_MOUNTS, detail=_format_conflicts(self.conflicts))
        )

    def _annotate(self, pod_plan: Plan, folders: Sequence[str]) -> None:
        evictable = self.pod.annotations.get(pod_annotations.EVICTABLE, "")
        annotations = {
            pod_annotations.AGENT_INJECTED: "true" if pod_plan.agent else "false",
            pod_annotations.REASON: pod_plan.agent_off.reason if pod_plan.agent_off else None,
            pod_annotations.ENRICHMENT_INJECTED: "true" if pod_plan.enrichment else None,
            pod_annotations.DYNAKUBE_INJECTED: "true",
            pod_annotations.EVICTABLE: ",".join([*filter(None, [evictable]), *folders]),
            pod_annotations.HANDLED: existing.containers_digest(self.pod),
        }
        self.operations += json_patch.metadata(self.obj, "annotations", annotations)

    def _change(self, targets: Sequence[_Target], pod_plan: Plan) -> None:
        """Add to containers what they lack: `LD_PRELOAD`, agents' variables, mounts."""
        annotations = (
            injection_env.agent_variables(self.context, self.dynakube, self.settings) if pod_plan.agent else []
        )
        for target in targets:
            container = target.container
            if pod_plan.agent:
                self._preload(f"{target.pointer}/env", container.env or [], pod_plan.library, annotations)
            missing = mounts.missing(container, mounts.of_container(container.name, pod_plan))
            self._append(f"{target.pointer}/volumeMounts", container.volume_mounts, missing)

    def _preload(self, pointer: str, env: Sequence[Variable], library: str, annotations: Sequence[Operation]) -> None:
        existing_items = {variable.name for variable in env}
        new = [entry for entry in annotations if entry["name"] not in existing_items]
        if env:
            self.operations += ld_preload.operations(pointer, env, library)
        else:
            new.insert(0, injection_env.literal(ld_preload.NAME, library))
        self._append(pointer, env, new)

    def _extend_init_container(self, found: ExistingInjection, new: Sequence[Container]) -> None:
        pointer = f"/spec/initContainers/{found.index}/env"
        env = found.container.env or []
        last = max(found.container_numbers.values(), default=0)
        count = injection_env.literal(contract.Variable.CONTAINERS, str(last + len(new)))
        annotations = init_container.container_variables(new, first=last + 1)
        names = [variable.name for variable in env]
        if contract.Variable.CONTAINERS in names:
            path = f"{pointer}/{names.index(contract.Variable.CONTAINERS)}"
            self.operations.append({"op": "replace", "path": path, "value": count})
        else:
            annotations.append(count)
        self._append(pointer, env, annotations)

    def _extend_driver_attributes(self, found: ExistingInjection, new: Sequence[Container]) -> None:
        if not found.csi:
            return
        index = found.volumes[contract.BIN_VOLUME]
        csi = (self.pod.spec.volumes or [])[index].csi
        if csi is not None and csi.volume_attributes:
            known = csi.volume_attributes.get("containers", "")
            named = ",".join([*filter(None, known.split(",")), *(container.name for container in new)])
            path = f"/spec/volumes/{index}/csi/volumeAttributes/containers"
            self.operations.append({"op": "add", "path": path, "value": named})

    def _append(self, pointer: str, existing_items: Sequence[object] | None, new: Sequence[object]) -> None:
        if existing_items:
            self.operations += ({"op": "add", "path": f"{pointer}/-", "value": value} for value in new)
        elif new:
            self.operations.append({"op": "add", "path": pointer, "value": list(new)})

    def _prepend(self, pointer: str, existing_items: Sequence[object] | None, new: Operation) -> None:
        if existing_items:
            self.operations.append({"op": "add", "path": f"{pointer}/0", "value": new})
        else:
            self.operations.append({"op": "add", "path": pointer, "value": [new]})

    def _warnings(self) -> list[str]:
        _, policy = plan.failure_policy(self.pod, self.dynakube)
        found = [
            policy,
            resources.invalid_resources_warning(self.dynakube),
            init_container.attributes_warning(self.dynakube),
            volumes.size_warning(self.pod),
            *injection_env.release_field_warnings(self.context, self.dynakube),
        ]
        return [*filter(None, found), *pod_annotations.invalid_switch_warnings(self.pod.annotations)]

    def _result(self, warnings: Sequence[str]) -> InjectionResult:
        if not self.conflicts:
            return InjectionResult(injected=True, reason="", patch=self.operations, warnings=warnings)
        text = f"pod {self.pod.name}: containers are not injected because of their own mounts at the agent's paths: "
        text += f"{_format_conflicts(self.conflicts)}; {skip_reasons.CONFLICTING_MOUNTS.remedy}"
        notice = Notice("Warning", CONTAINER_SKIPPED, text)
        return InjectionResult(True, "", self.operations, (text, *warnings), (notice,))


def _targets(obj: Pod, after: int) -> Iterator[_Target]:
    for index, container in enumerate(obj.spec.init_containers or ()):
        if index > after and container.restart_policy == "Always":
            yield _Target(f"/spec/initContainers/{index}", container)
    for index, container in enumerate(obj.spec.containers):
        yield _Target(f"/spec/containers/{index}", container)


def _format_conflicts(conflicts: dict[str, str]) -> str:
    return ", ".join(f"{container} ({pointer})" for container, pointer in conflicts.items())
