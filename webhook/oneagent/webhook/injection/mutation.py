"""The patch of a pod, with its warnings and Events.

The first call injects a pod. A reinvocation, after another webhook has changed the pod, extends the injection.
Application containers get the agent, and so do sidecars (init containers with `restartPolicy: Always`), which run
beside them. Other init containers get it only if the pod or the DynaKube asks for it, since most end too early to be
monitored. With CSI the order of all of these does not matter, since kubelet mounts volumes before it starts any.
Without CSI our init container comes first, so that it has ended when the others start. If another webhook puts its own
before it, the order stays, and a sidecar that starts before ours gets nothing that it would have to wait for; what it
has got already is removed. Ephemeral containers are added after admission.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from oneagent.common import agents
from oneagent.common.agents import oneagent
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import contract, pod_annotations, skip_reasons, volume_attributes
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.env import literal
from oneagent.webhook import json_patch
from oneagent.webhook.injection import (
    dynakube_settings,
    exclusions,
    existing,
    extension,
    init_container,
    ld_preload,
    mounts,
    plan,
    pod_model,
    removal,
    resources,
    volumes,
)
from oneagent.webhook.injection import env as injection_env
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.existing import ExistingInjection
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext
from oneagent.webhook.injection.plan import Plan, Settings
from oneagent.webhook.injection.pod_model import Container, Pod, Variable
from oneagent.webhook.injection.skipping import notify, skip_pod

CONTAINER_SKIPPED = "ContainerNotInjected"
"""Reason of the Event about containers with their own mounts at the agent's paths"""
MOUNT_LEFT_OUT = "MountLeftOut"
"""Reason of the Event about containers that have the agent, but not all of its mounts, because of their own"""

Operation = dict[str, Any]


def inject(obj: Object, context: PodContext, settings: Settings) -> InjectionResult:
    """Return the patch of a pod. Pure: the same arguments give the same result."""
    try:
        pod = pod_model.parse(obj)
    except msgspec.ValidationError as error:
        return notify(replace(skip_reasons.INVALID_POD, detail=str(error)), "*", ())
    if skip := exclusions.find_out_of_scope(pod, context, settings.own_namespace):
        return InjectionResult(injected=False, reason=skip.reason)
    found = existing.find(pod)
    if skip := exclusions.find_oversize(pod):
        return InjectionResult(injected=True, reason="") if found is not None else skip_pod(obj, pod, skip)
    dynakube = _read_dynakube(context, settings)
    if found is not None:
        return _reinvoke(obj, pod, context, settings, dynakube, found)
    if existing.has_remains(pod):
        return removal.take_out(obj, pod, _remains(obj, pod, context, settings, dynakube))
    return _inject_new(obj, pod, context, settings, dynakube)


def _inject_new(
    obj: Object, pod: Pod, context: PodContext, settings: Settings, dynakube: DynaKubeSettings | SkipReason
) -> InjectionResult:
    if isinstance(dynakube, DynaKubeSettings) and exclusions.is_ignored(context.namespace, dynakube):
        return InjectionResult(injected=False, reason=skip_reasons.NAMESPACE_IGNORED.reason)
    if skip := exclusions.find_exclusion(pod):
        return skip_pod(obj, pod, skip)
    if isinstance(dynakube, SkipReason):
        return skip_pod(obj, pod, dynakube)
    return PatchBuilder(obj, pod, context, dynakube, settings).build()


def _reinvoke(
    obj: Object,
    pod: Pod,
    context: PodContext,
    settings: Settings,
    dynakube: DynaKubeSettings | SkipReason,
    found: ExistingInjection,
) -> InjectionResult:
    freed: list[Operation] = []
    if found.init is not None and found.init.index:
        remains = _remains(obj, pod, context, settings, dynakube)
        for index, container in enumerate(obj["spec"]["initContainers"][: found.init.index]):
            freed += remains.remove_from_container(f"/spec/initContainers/{index}", container)
    unchanged = InjectionResult(injected=True, reason="", patch=tuple(freed))
    if isinstance(dynakube, SkipReason) or not dynakube.is_on("webhook-reinvocation-policy"):
        return unchanged
    pod_plan = plan.restore(found, pod, dynakube)
    if pod_plan is None:
        return unchanged
    return PatchBuilder(obj, pod, context, dynakube, settings, freed).extend(found, pod_plan)


def _remains(
    obj: Object, pod: Pod, context: PodContext, settings: Settings, dynakube: DynaKubeSettings | SkipReason
) -> removal.Remains:
    if isinstance(dynakube, SkipReason):
        return removal.find(obj, pod, ())
    return removal.find(obj, pod, injection_env.agent_variables(context, dynakube, settings))


def _read_dynakube(context: PodContext, settings: Settings) -> DynaKubeSettings | SkipReason:
    kind = agents.kind_of_object(context.namespace_labels.get(namespace_mapping.LABEL, ""))
    if context.dynakube is None:
        return skip_reasons.DYNAKUBE_MISSING.for_kind(kind)
    try:
        return dynakube_settings.read(context.dynakube, settings.own_namespace)
    except fields.FieldError as error:
        return replace(skip_reasons.DYNAKUBE_UNUSABLE.for_kind(kind), detail=str(error))


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
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    """By container, our mounts that it cannot have, and its own mount that conflicts with each."""

    def build(self) -> InjectionResult:
        pod_plan = plan.create(self.pod, self.context, self.dynakube)
        if isinstance(pod_plan, SkipReason):
            return skip_pod(self.obj, self.pod, pod_plan)
        if skip := self._conflict(pod_plan):
            return skip_pod(self.obj, self.pod, skip)
        included = list(self._included(pod_plan, after=-1))
        if not included:
            return self._no_container()
        if pod_plan.agent and all(oneagent.ENRICHMENT_PATH in self._left_out(target) for target in included):
            pod_plan = replace(pod_plan, enrichment=False)
        if not pod_plan.init_container:
            return self._build_with_csi(pod_plan, included)
        return self._build_without_csi(pod_plan, included)

    def _build_with_csi(self, pod_plan: Plan, included: Sequence[_Target]) -> InjectionResult:
        containers = [target.container for target in included]
        values = volumes.attributes(self.pod, self.context, pod_plan, self.dynakube, containers)
        attributes, left_out = volume_attributes.encode(values)
        self._add(pod_plan, included, volumes.with_csi(pod_plan, attributes))
        return self._result([volumes.left_out_warning(self.pod, left_out), *self._warnings()])

    def _build_without_csi(self, pod_plan: Plan, included: Sequence[_Target]) -> InjectionResult:
        allowed = resources.of_init_container(self.pod, self.dynakube, pod_plan, self.context.limits)
        if allowed is None:
            return skip_pod(
                self.obj, self.pod, replace(skip_reasons.LIMITS_TOO_LOW, detail=resources.shortage(pod_plan))
            )
        self._add(pod_plan, included, volumes.without_csi(self.pod, pod_plan, self.dynakube))
        containers = [target.container for target in included]
        ours = init_container.build(self.pod, self.context, self.dynakube, self.settings, pod_plan, containers, allowed)
        self._prepend("/spec/initContainers", self.pod.spec.init_containers, ours)
        self._name_pull_secret()
        resources_warning = resources.invalid_resources_warning(self.dynakube)
        return self._result([resources_warning, volumes.size_warning(self.pod), *self._warnings()])

    def _name_pull_secret(self) -> None:
        """Those of the service account stay: the API server has added them before it calls any webhook."""
        named, name = self.pod.spec.image_pull_secrets, self.settings.image_pull_secret
        if name and all(secret.name != name for secret in named or ()):
            self._append("/spec/imagePullSecrets", named, [{"name": name}])

    def _add(self, pod_plan: Plan, included: Sequence[_Target], new_volumes: Sequence[volumes.Volume]) -> None:
        self._annotate(pod_plan, [volume["name"] for volume in new_volumes if "emptyDir" in volume])
        self._change(included, pod_plan)
        self._append("/spec/volumes", self.pod.spec.volumes, new_volumes)

    def extend(self, found: ExistingInjection, pod_plan: Plan) -> InjectionResult:
        included = list(self._included(pod_plan, after=-1 if found.init is None else found.init.index))
        digest = existing.containers_digest(self.pod, init_containers=pod_plan.other_init_containers)
        if self.pod.annotations.get(pod_annotations.HANDLED) == digest:
            # The last call has seen the same containers.
            included = [target for target in included if self._lacks_anything(target, pod_plan)]
            self.conflicts.clear()
            self.left_out.clear()
        self.operations += json_patch.metadata(self.obj, "annotations", {pod_annotations.HANDLED: digest})
        self._change(included, pod_plan)
        new = [target.container for target in included if target.container.name not in found.prepared]
        if not pod_plan.agent or not new:
            return self._result([])
        operations, left_out = extension.operations(self.pod, found, new)
        self.operations += operations
        return self._result([volumes.left_out_warning(self.pod, left_out)])

    def _conflict(self, pod_plan: Plan) -> SkipReason | None:
        # A mount without its volume would become one of the injected volume.
        mounted = {mount.name for container in self.pod.all_containers() for mount in container.volume_mounts or ()}
        if taken := volumes.reserved(pod_plan) & {*mounted, *(volume.name for volume in self.pod.spec.volumes or ())}:
            return replace(skip_reasons.CONFLICTING_VOLUME, detail=", ".join(sorted(taken)))
        if any(container.name == contract.INIT_CONTAINER for container in self.pod.all_containers()):
            return replace(skip_reasons.CONFLICTING_CONTAINER, detail=contract.INIT_CONTAINER)
        return None

    def _included(self, pod_plan: Plan, after: int) -> Iterator[_Target]:
        mount_conflicts = mounts.mount_conflicts(pod_plan, self.pod)
        for target in _targets(self.pod, pod_plan, after):
            container = target.container
            if plan.is_excluded(container, self.pod, self.dynakube):
                continue
            if path := mount_conflicts.find(container):
                self.conflicts[container.name] = path
                continue
            if left_out := mount_conflicts.find_optional(container):
                self.left_out[container.name] = left_out
            yield target

    def _left_out(self, target: _Target) -> Mapping[str, str]:
        return self.left_out.get(target.container.name, {})

    def _missing_mounts(self, target: _Target, pod_plan: Plan) -> list[mounts.Mount]:
        required = mounts.of_container(target.container.name, pod_plan)
        return mounts.missing(target.container, required, self._left_out(target))

    def _lacks_anything(self, target: _Target, pod_plan: Plan) -> bool:
        """Return whether another webhook has removed a part of a container's injection."""
        variables = target.container.env or []
        lacks_library = not variables or bool(ld_preload.operations(target.pointer, variables, pod_plan.library))
        return (pod_plan.agent and lacks_library) or bool(self._missing_mounts(target, pod_plan))

    def _no_container(self) -> InjectionResult:
        if not self.conflicts:
            return skip_pod(self.obj, self.pod, skip_reasons.CONTAINERS_EXCLUDED)
        return skip_pod(
            self.obj, self.pod, replace(skip_reasons.CONFLICTING_MOUNTS, detail=_format_conflicts(self.conflicts))
        )

    def _annotate(self, pod_plan: Plan, folders: Sequence[str]) -> None:
        evictable = self.pod.annotations.get(pod_annotations.EVICTABLE, "")
        annotations = {
            pod_annotations.AGENT_INJECTED: "true" if pod_plan.agent else "false",
            pod_annotations.REASON: pod_plan.agent_off.reason if pod_plan.agent_off else None,
            pod_annotations.ENRICHMENT_INJECTED: "true" if pod_plan.enrichment else None,
            pod_annotations.DYNAKUBE_INJECTED: "true",
            pod_annotations.EVICTABLE: ",".join([*filter(None, [evictable]), *folders]) or None,
            pod_annotations.HANDLED: existing.containers_digest(
                self.pod, init_containers=pod_plan.other_init_containers
            ),
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
            missing = self._missing_mounts(target, pod_plan)
            self._append(f"{target.pointer}/volumeMounts", container.volume_mounts, missing)

    def _preload(self, pointer: str, env: Sequence[Variable], library: str, annotations: Sequence[Operation]) -> None:
        existing_items = {variable.name for variable in env}
        new = [entry for entry in annotations if entry["name"] not in existing_items]
        if env:
            self.operations += ld_preload.operations(pointer, env, library)
        else:
            new.insert(0, literal(ld_preload.NAME, library))
        self._append(pointer, env, new)

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
        return [
            policy,
            self.dynakube.attributes_warning,
            *injection_env.release_field_warnings(self.context, self.dynakube),
            *pod_annotations.invalid_switch_warnings(self.pod.annotations),
        ]

    def _result(self, warnings: Sequence[str]) -> InjectionResult:
        """Empty warnings are none."""
        notices = []
        if self.conflicts:
            text = (
                f"pod {self.pod.name}: containers are not injected because of their own mounts at the agent's paths: "
            )
            text += f"{_format_conflicts(self.conflicts)}; {skip_reasons.CONFLICTING_MOUNTS.remedy}"
            notices.append(Notice("Warning", CONTAINER_SKIPPED, text))
        if self.left_out:
            own = {name: ", ".join(found.values()) for name, found in self.left_out.items()}
            text = f"pod {self.pod.name}: containers lack metadata files or connection options because of their own "
            text += f"mounts: {_format_conflicts(own)}; mount them elsewhere"
            notices.append(Notice("Warning", MOUNT_LEFT_OUT, text))
        found = tuple(notice.message for notice in notices)
        warnings = (*found, *filter(None, warnings))
        return InjectionResult(True, "", tuple(self.operations), warnings, tuple(notices))


def _targets(obj: Pod, pod_plan: Plan, after: int) -> Iterator[_Target]:
    for index, container in enumerate(obj.spec.init_containers or ()):
        if index > after and (pod_plan.other_init_containers or container.restart_policy == "Always"):
            yield _Target(f"/spec/initContainers/{index}", container)
    for index, container in enumerate(obj.spec.containers):
        yield _Target(f"/spec/containers/{index}", container)


def _format_conflicts(conflicts: dict[str, str]) -> str:
    return ", ".join(f"{container} ({pointer})" for container, pointer in conflicts.items())
