"""Results for pods that are left without an injection: annotations, warnings and Events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oneagent.common.injection import pod_annotations
from oneagent.common.injection.skip_reasons import SkipReason, Visibility
from oneagent.webhook import json_patch
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object
from oneagent.webhook.injection.pod_model import Pod


def skip_pod(
    obj: Object,
    pod: Pod,
    skip: SkipReason,
    removed: Sequence[Object] = (),
    freed: Mapping[str, str | None] | None = None,
) -> InjectionResult:
    """`removed` takes out what the pod has of an earlier injection; `freed` are more annotations."""
    annotations = {
        pod_annotations.AGENT_INJECTED: "false",
        pod_annotations.REASON: skip.reason,
        pod_annotations.DYNAKUBE_INJECTED: "false",
        pod_annotations.ENRICHMENT_INJECTED: None,
        pod_annotations.HANDLED: None,
        **(freed or {}),
    }
    patch = [*json_patch.metadata(obj, "annotations", annotations), *removed]
    return notify(skip, pod.name, patch, pod_annotations.invalid_switch_warnings(pod.annotations))


def notify(skip: SkipReason, name: str, patch: Sequence[Object], warnings: Sequence[str] = ()) -> InjectionResult:
    if skip.visibility is not Visibility.WARN:
        return InjectionResult(injected=False, reason=skip.reason, patch=patch, warnings=warnings)
    text = f"pod {name} is not injected: {skip}"
    notice = Notice("Warning", skip.reason, text)
    return InjectionResult(
        injected=False, reason=skip.reason, patch=patch, warnings=(text, *warnings), notices=(notice,)
    )
