"""What follows from what was seen of a pod: one sentence, and what to do. Pure.

In the order in which things happen to a pod: the webhook decides, the scheduler finds a node, the driver mounts, the
init container checks or installs, the processes load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.operator.cli.why import Evidence, InitContainer, NamespaceFacts, Reason, Verdict

_SKIPS: Final = {skip.reason: skip for skip in vars(skip_reasons).values() if isinstance(skip, SkipReason)}
_RESTART: Final = "then restart its workload: a pod that runs is never changed"
NO_VOLUME, NO_PROCESS = "NoVolume", "NoProcess"
"""Verdicts of the node that the cluster knows more about."""


def judge(found: Evidence) -> Verdict:
    """The verdict on a pod."""
    if not found.exists:
        return _no_pod(found)
    if found.decision.injected is False and found.decision.reason:
        return _skipped(found)
    if found.by_driver:
        return _by_driver(found)
    if found.init is not None:
        return _by_itself(found, found.init)
    return _not_injected(found)


def _who(found: Evidence) -> str:
    return f"pod {found.namespace}/{found.pod}"


def _no_pod(found: Evidence) -> Verdict:
    if found.unread:
        return Verdict(Reason.NO_POD, f"{_who(found)} can't be read: {found.unread[0]}", "ask with an account that may")
    there = "" if found.owner is not None else f": there is no namespace {found.namespace}"
    return Verdict(
        Reason.NO_POD,
        f"there is no {_who(found)}{there}",
        f"kubectl -n {found.namespace} get pods shows those there are",
    )


def _skipped(found: Evidence) -> Verdict:
    """The webhook has said why it left the pod as it is."""
    reason = found.decision.reason
    skip = _SKIPS.get(reason)
    why = skip.why if skip is not None else "the webhook could decide nothing about it"
    remedy = skip.remedy if skip is not None else "see the log of oneagent-webhook"
    told = next((event.message for event in found.events if event.reason in (reason, "InjectionFailed")), "")
    if reason in (skip_reasons.OPTED_OUT.reason, skip_reasons.CONTAINERS_EXCLUDED.reason):
        wishes = [asked for asked in found.decision.asked if asked.lower().endswith('"false"')]
        why += f" ({', '.join(wishes)})" if wishes else ""
        remedy = "if that is not wanted, take the annotation out of its workload's pod template"
    elif reason == skip_reasons.NOT_AUTOMATIC.reason:
        remedy = 'dynatrace.com/inject: "true" on its workload\'s pod template asks for it'
    elif reason == skip_reasons.HOST_NETWORK.reason:
        remedy = 'oneagent.dynatrace.com/inject: "true" on its workload\'s pod template asks for it'
    if told:
        why += f". The webhook's Event: {told}"
    return Verdict(reason, f"{_who(found)} was not injected: {why}", f"{remedy}; {_RESTART}" if remedy else "")


def _not_injected(found: Evidence) -> Verdict:
    """Nothing of ours is in it, and nothing says why."""
    owner = found.owner
    if found.mirror:
        return Verdict(skip_reasons.MIRROR_POD.reason, f"{_who(found)} was not injected: {skip_reasons.MIRROR_POD.why}")
    if owner is None:
        reason = "; ".join(found.unread) or "its namespace is not there"
        return Verdict(Reason.WEBHOOK_NOT_ASKED, f"{_who(found)} was not injected; why can't be told: {reason}")
    if owner.label or owner.owner:
        return _not_asked(found, owner)
    start = f"{_who(found)} was not injected: "
    if owner.selected_by:
        return Verdict(
            skip_reasons.NAMESPACE_IGNORED.reason,
            f"{start}DynaKube {owner.selected_by[0]} selects the namespace {found.namespace} and ignores it",
            "it is the product's own or one of the cluster's, or the DynaKube's annotation "
            "feature.dynatrace.com/ignored-namespaces names it",
        )
    match owner.dynakubes:
        case None:
            none = f"it has no label {namespace_mapping.LABEL}; DynaKubes can't be read"
        case 0:
            none = "there is no DynaKube"
        case count:
            none = f"no DynaKube selects it, of {count} that there are"
    return Verdict(
        skip_reasons.NAMESPACE_NOT_MONITORED.reason,
        f"{start}its namespace {found.namespace} is not monitored, since {none}",
        "compare the namespaceSelector of the DynaKube with the labels of the namespace; "
        f"kubectl get namespace {found.namespace} --show-labels",
    )


def _not_asked(found: Evidence, owner: NamespaceFacts) -> Verdict:
    start = f"{_who(found)} was not injected, though its namespace belongs to DynaKube {owner.owner or owner.label}: "
    if not owner.label:
        return Verdict(
            Reason.WEBHOOK_NOT_ASKED,
            f"{start}the namespace has no label {namespace_mapping.LABEL}, so the webhook is not asked",
            "the operator labels it within seconds: does it run? kubectl oneagent doctor says more",
        )
    if found.webhook_ready == 0:
        return Verdict(
            Reason.WEBHOOK_NOT_ASKED,
            f"{start}the webhook was not asked when it was created, and no pod of the webhook is ready now",
            f"kubectl oneagent doctor says what is wrong with the webhook. Put that right, {_RESTART}",
        )
    return Verdict(
        Reason.WEBHOOK_NOT_ASKED,
        f"{start}the webhook was not asked when it was created: the pod is older than the namespace's label, or the "
        "webhook was away then",
        "restart its workload. If the new pod has none either, see what kubectl oneagent doctor says of the webhook",
    )


def _by_driver(found: Evidence) -> Verdict:
    who = _who(found)
    if early := _before_the_node(found):
        return early
    if not found.driver and not found.node_problem:
        return Verdict(
            Reason.NO_DRIVER,
            f"{who} was injected, but its node {found.node} has no pod of the driver",
            "kubectl oneagent doctor names the nodes without a driver, and why",
        )
    if found.on_node is None:
        see = f"see pod {found.driver} and its container server; " if found.driver else ""
        right = "create pods/exec" if found.driver else "list the pods of the driver, and to create pods/exec,"
        return Verdict(
            Reason.NODE_NOT_ASKED,
            f"{who} was injected; its node {found.node} can't be asked for the rest: {found.node_problem}",
            f"{see}the right to {right} is needed",
        )
    return _on_node(found, found.on_node["verdict"])


def _on_node(found: Evidence, told: Mapping[str, Any]) -> Verdict:
    """What the node says, unless the cluster knows more."""
    reason = str(told.get("reason", ""))
    if found.init is not None and found.init.state != "done" and found.init.message:
        return _failed(found, found.init)
    if reason == NO_VOLUME:
        return Verdict(
            Reason.NOT_PUBLISHED,
            f"{_who(found)} was injected, and kubelet on node {found.node} has not asked the driver for its volume yet",
            f"kubectl -n {found.namespace} describe pod {found.pod} shows what kubelet waits for; kubectl oneagent "
            "doctor says whether it knows the driver",
        )
    if reason == NO_PROCESS and found.troubles:
        return _not_started(found)
    return Verdict(reason, f"{told.get('sentence', '')}, on node {found.node}", str(told.get("remedy", "")))


def _before_the_node(found: Evidence) -> Verdict | None:
    who = _who(found)
    if found.phase in ("Succeeded", "Failed"):
        return Verdict(Reason.ENDED, f"{who} was injected, and has ended ({found.phase})", "look at one that runs")
    if not found.node:
        scheduling = f": {found.scheduling}" if found.scheduling else ""
        return Verdict(
            Reason.NOT_SCHEDULED,
            f"{who} was injected, and has no node yet{scheduling}",
            f"kubectl -n {found.namespace} describe pod {found.pod}",
        )
    return None


def _by_itself(found: Evidence, init: InitContainer) -> Verdict:
    """Without the driver: its init container downloads the agent."""
    who = _who(found)
    if init.state == "done" and not init.message:
        return Verdict(
            Reason.INSTALLED,
            f"{who} has its agent: its init container has installed it. Whether processes have loaded it is not seen "
            "without a driver",
        )
    if init.message:
        return _failed(found, init)
    if early := _before_the_node(found):
        return early
    if found.troubles:
        return _not_started(found)
    return Verdict(Reason.INSTALLING, f"the init container of {who} is {init.state}{_because(init)}", "wait")


def _failed(found: Evidence, init: InitContainer) -> Verdict:
    effect = "runs without its agent" if init.state == "done" else "can't start yet"
    return Verdict(
        Reason.INSTALL_FAILED,
        f"{_who(found)} {effect}; its init container says: {init.message.rstrip('.')}",
        'docs/injection.md, "What the init container says", has what to do for each message',
    )


def _not_started(found: Evidence) -> Verdict:
    return Verdict(
        Reason.NOT_STARTED,
        f"{_who(found)} was injected, and can't start: {'; '.join(found.troubles)}",
        f"kubectl -n {found.namespace} describe pod {found.pod}",
    )


def _because(init: InitContainer) -> str:
    return f" ({init.reason})" if init.reason else ""
