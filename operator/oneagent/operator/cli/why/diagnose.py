"""Diagnosis of a pod from its evidence: a reason, a sentence, a remedy. Pure.

In the order of a pod's life: the webhook decides, the scheduler finds a node, the driver mounts, the
init container checks or installs, the processes load.
"""

from __future__ import annotations

from typing import Final

from oneagent.common import agents
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.node_report import Diagnosis
from oneagent.operator.cli.why import Evidence, InitContainer, NamespaceOwner, Reason

_SKIPS: Final = {skip.reason: skip for skip in vars(skip_reasons).values() if isinstance(skip, SkipReason)}
_MOST_SELECTORS: Final = 3
_RESTART: Final = "then restart its workload: a running pod is never changed"
LOADED: Final = frozenset({"Monitored", "PartlyMonitored"})
NO_VOLUME, NO_PROCESS = "NoVolume", "NoProcess"
"""Reasons of the node that the cluster's evidence refines."""


def diagnose(evidence: Evidence) -> Diagnosis:
    """Diagnose a pod."""
    if not evidence.exists or evidence.is_deleting:
        return _no_pod(evidence)
    if is_loaded_otherwise(evidence) and evidence.on_node is not None:
        return _on_node(evidence, evidence.on_node.diagnosis)
    if evidence.decision.injected is False and evidence.decision.reason:
        return _skipped(evidence)
    if evidence.by_driver:
        return _by_driver(evidence)
    if evidence.init is not None:
        return _by_init_container(evidence, evidence.init)
    return _not_injected(evidence)


def is_loaded_otherwise(evidence: Evidence) -> bool:
    """Return True if processes have the agent and the driver's volume is not where it is from."""
    if evidence.by_driver or evidence.on_node is None or (evidence.init is not None and evidence.init.message):
        return False
    return evidence.on_node.diagnosis.reason in LOADED


def _pod(evidence: Evidence) -> str:
    return f"pod {evidence.namespace}/{evidence.pod}"


def _no_pod(evidence: Evidence) -> Diagnosis:
    if evidence.is_deleting:
        return Diagnosis(Reason.TERMINATING, f"{_pod(evidence)} is being deleted", "diagnose the pod that replaces it")
    if evidence.unread:
        return Diagnosis(
            Reason.UNREADABLE,
            f"{_pod(evidence)} can't be read: {evidence.unread[0]}",
            "use an account that may read it",
        )
    if evidence.owner is None:
        return Diagnosis(
            Reason.NO_POD,
            f"there is no {_pod(evidence)}: there is no namespace {evidence.namespace}",
            "write NAMESPACE/POD, or KIND/NAME of a workload, such as deployment/cart; kubectl get namespaces",
        )
    return Diagnosis(
        Reason.NO_POD,
        f"there is no {_pod(evidence)}",
        f"kubectl -n {evidence.namespace} get pods shows those there are; -n names another namespace",
    )


def _skipped(evidence: Evidence) -> Diagnosis:
    """The webhook's annotation has the reason."""
    reason = evidence.decision.reason
    skip = _SKIPS.get(reason)
    if skip is not None and evidence.owner is not None:
        skip = skip.for_kind(agents.kind_of_object(evidence.owner.owner or evidence.owner.label))
    why = skip.why if skip is not None else "the webhook reached no decision"
    remedy = skip.remedy.removesuffix(skip_reasons.RESTART) if skip is not None else "check the log of oneagent-webhook"
    event_reasons = (reason, "InjectionFailed")
    event_message = next((event.message for event in evidence.events if event.reason in event_reasons), "")
    if reason in (skip_reasons.OPTED_OUT.reason, skip_reasons.CONTAINERS_EXCLUDED.reason):
        opt_outs = [
            annotation for annotation in evidence.decision.annotations if annotation.lower().endswith('"false"')
        ]
        why += f" ({', '.join(opt_outs)})" if opt_outs else ""
        remedy = "to inject it, remove the annotation from its workload's pod template"
    elif reason == skip_reasons.NOT_AUTOMATIC.reason:
        remedy = 'dynatrace.com/inject: "true" on its workload\'s pod template requests it'
    elif reason == skip_reasons.HOST_NETWORK.reason:
        remedy = 'oneagent.dynatrace.com/inject: "true" on its workload\'s pod template requests it'
    if event_message:
        why = _join(why, event_message, skip.remedy if skip is not None else "")
    return Diagnosis(reason, f"{_pod(evidence)} was not injected: {why}", f"{remedy}; {_RESTART}" if remedy else "")


def _join(why: str, event: str, remedy: str) -> str:
    """Return the reason with what the webhook's Event adds to it; the Event ends with the same remedy."""
    event = event.removesuffix(f"; {remedy}") if remedy else event
    _, is_own, detail = event.partition(" is not injected: ")
    return detail if is_own and detail.startswith(why) else f"{why}. The webhook's Event: {event}"


def _not_injected(evidence: Evidence) -> Diagnosis:
    """Neither injected nor annotated with a reason."""
    owner = evidence.owner
    if evidence.mirror:
        return Diagnosis(
            skip_reasons.MIRROR_POD.reason, f"{_pod(evidence)} was not injected: {skip_reasons.MIRROR_POD.why}"
        )
    if owner is None:
        reason = "; ".join(evidence.unread) or "its namespace does not exist"
        return Diagnosis(Reason.UNREADABLE, f"{_pod(evidence)} was not injected, for an unknown reason: {reason}")
    start = f"{_pod(evidence)} was not injected: "
    if namespace := evidence.webhook_absent_from:
        return Diagnosis(
            Reason.NOT_INSTALLED,
            f"{start}oneagent-csi is not installed, or half removed: the namespace {namespace} has no Deployment "
            "oneagent-webhook",
            "kubectl oneagent status",
        )
    if owner.label or owner.owner:
        return _webhook_not_called(evidence, owner)
    if owner.selected_by:
        return Diagnosis(
            skip_reasons.NAMESPACE_IGNORED.reason,
            f"{start}{agents.describe_object(owner.selected_by[0])} selects the namespace {evidence.namespace} and "
            "ignores it",
            "to monitor it, change the DynaKube's annotation feature.dynatrace.com/ignored-namespaces; its default has "
            "the installation's namespace and those of Kubernetes, OpenShift and GKE",
        )
    match owner.dynakubes:
        case None:
            none = f"it has no label {namespace_mapping.LABEL}; DynaKubes can't be read"
        case 0:
            none = "there is no DynaKube"
        case count:
            none = f"no DynaKube selects it, of {count} that there are{_selectors(owner)}"
    return Diagnosis(
        skip_reasons.NAMESPACE_NOT_MONITORED.reason,
        f"{start}its namespace {evidence.namespace} is not monitored, since {none}",
        'create a DynaKube that selects it: docs/install.md, "The first DynaKube"'
        if owner.dynakubes == 0
        else "to monitor it, give it the labels that a DynaKube selects, and restart the workload; "
        f"kubectl get namespace {evidence.namespace} --show-labels shows those that it has",
    )


def _selectors(owner: NamespaceOwner) -> str:
    """Return what DynaKubes select, as the end of a sentence."""
    found = [f"{agents.describe_object(name)} selects {selector}" for name, selector in owner.selectors.items()]
    more = f", and {len(found) - _MOST_SELECTORS} more" if len(found) > _MOST_SELECTORS else ""
    return f": {', '.join(found[:_MOST_SELECTORS])}{more}" if found else ""


def _webhook_not_called(evidence: Evidence, owner: NamespaceOwner) -> Diagnosis:
    named = agents.describe_object(owner.owner or owner.label)
    start = f"{_pod(evidence)} was not injected, though its namespace belongs to {named}: "
    if not owner.label:
        return Diagnosis(
            Reason.WEBHOOK_NOT_CALLED,
            f"{start}the namespace has no label {namespace_mapping.LABEL}, so the webhook is not called",
            "the operator labels it within seconds: run kubectl oneagent doctor to check that it runs",
        )
    if evidence.webhook_ready == 0:
        return Diagnosis(
            Reason.WEBHOOK_NOT_CALLED,
            f"{start}the webhook was not called for it, and no pod of the webhook is ready now",
            f"run kubectl oneagent doctor, solve the webhook's problem, {_RESTART}",
        )
    return Diagnosis(
        Reason.WEBHOOK_NOT_CALLED,
        f"{start}the webhook was not called for it, because the pod is older than the namespace's label, or the "
        "webhook was unavailable",
        "restart its workload. If the new pod is not injected either, check the webhook with kubectl oneagent doctor",
    )


def _by_driver(evidence: Evidence) -> Diagnosis:
    pod = _pod(evidence)
    if early := _without_node(evidence):
        return early
    if not evidence.driver and not evidence.node_problem:
        effect = "can't start" if evidence.phase == "Pending" else "runs, but can't be removed when it ends"
        return Diagnosis(
            Reason.NO_DRIVER,
            f"{pod} was injected, and {effect}: its node {evidence.node} has no pod of the driver",
            "kubectl oneagent doctor shows why; let the driver run on the node again",
        )
    if evidence.on_node is None:
        check = f"check pod {evidence.driver} and its container server; " if evidence.driver else ""
        permission = "create pods/exec" if evidence.driver else "list the pods of the driver, and to create pods/exec,"
        return Diagnosis(
            Reason.NODE_UNREACHABLE,
            f"{pod} was injected; its node {evidence.node} gives no report: {evidence.node_problem}",
            f"{check}it needs the permission to {permission}",
        )
    return _on_node(evidence, evidence.on_node.diagnosis)


def _on_node(evidence: Evidence, on_node: Diagnosis) -> Diagnosis:
    """Return the node's diagnosis, unless the cluster's evidence refines it."""
    reason = on_node.reason
    if evidence.init is not None and evidence.init.state != "done" and evidence.init.message:
        return _failed(evidence, evidence.init)
    if reason == NO_VOLUME:
        return Diagnosis(
            Reason.NOT_PUBLISHED,
            f"{_pod(evidence)} was injected, and kubelet on node {evidence.node} has not requested its volume yet",
            f"kubectl -n {evidence.namespace} describe pod {evidence.pod} shows what kubelet waits for; "
            "kubectl oneagent doctor checks that the driver is registered",
        )
    if reason == NO_PROCESS and evidence.container_problems:
        return _not_started(evidence)
    remedy = on_node.remedy or _before_a_restart(evidence)
    return Diagnosis(reason, f"{on_node.sentence}, on node {evidence.node}", remedy)


def _before_a_restart(evidence: Evidence) -> str:
    """Return what to do for a pod with its agent in a namespace that has lost its label since."""
    owner = evidence.owner
    if not evidence.decision.injected or owner is None or owner.label or owner.owner or owner.dynakubes is None:
        return ""
    effect = "before the pod restarts, or the new one gets no agent"
    if owner.selected_by:
        ignoring = agents.describe_object(owner.selected_by[0])
        return f"change ignored-namespaces of {ignoring} {effect}: it ignores {evidence.namespace} now"
    return (
        f"restore the namespace's labels {effect}: no DynaKube selects {evidence.namespace} any more{_selectors(owner)}"
    )


def _without_node(evidence: Evidence) -> Diagnosis | None:
    pod = _pod(evidence)
    if evidence.phase in ("Succeeded", "Failed"):
        return Diagnosis(
            Reason.ENDED, f"{pod} was injected, and has ended ({evidence.phase})", "diagnose a running pod"
        )
    if not evidence.node:
        scheduling = f": {evidence.scheduling}" if evidence.scheduling else ""
        return Diagnosis(
            Reason.NOT_SCHEDULED,
            f"{pod} was injected, and has no node yet{scheduling}",
            f"kubectl -n {evidence.namespace} describe pod {evidence.pod}",
        )
    return None


def _by_init_container(evidence: Evidence, init: InitContainer) -> Diagnosis:
    """Diagnose a pod without the driver, whose init container downloads the agent."""
    pod = _pod(evidence)
    if init.state == "done" and not init.message:
        return Diagnosis(
            Reason.INSTALLED,
            f"{pod} has its agent: its init container has installed it. Without a driver its processes are not visible",
        )
    if init.message:
        return _failed(evidence, init)
    if early := _without_node(evidence):
        return early
    if evidence.container_problems:
        return _not_started(evidence)
    return Diagnosis(Reason.INSTALLING, f"the init container of {pod} is {init.state}{_because(init)}", "wait")


def _failed(evidence: Evidence, init: InitContainer) -> Diagnosis:
    effect = "runs without its agent" if init.state == "done" else "can't start yet"
    return Diagnosis(
        Reason.INSTALL_FAILED,
        f"{_pod(evidence)} {effect}; its init container reports: {init.message.rstrip('.')}",
        'docs/injection.md, "Messages of the init container", has the remedy for each message',
    )


def _not_started(evidence: Evidence) -> Diagnosis:
    return Diagnosis(
        Reason.NOT_STARTED,
        f"{_pod(evidence)} was injected, and can't start: {'; '.join(evidence.container_problems)}",
        f"kubectl -n {evidence.namespace} describe pod {evidence.pod}",
    )


def _because(init: InitContainer) -> str:
    return f" ({init.reason})" if init.reason else ""
