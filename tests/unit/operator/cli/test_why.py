"""A pod has one diagnosis, by the webhook, the scheduler, the init container, or its node."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oneagent.common import node_report
from oneagent.common.injection import skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.node_report import PodReport
from oneagent.common.terminal import Screen
from oneagent.operator.cli import why
from oneagent.operator.cli.why import Decision, Event, Evidence, InitContainer, NamespaceOwner, diagnose, text

MONITORED = node_report.pod_from_json(
    {
        "verdict": {"reason": "Monitored", "sentence": "pod shop/cart is monitored", "remedy": ""},
        "volume": {"state": "mounted", "dynakube": "shop", "version": "1.290.0.20261001-120000"},
        "processes": [{"pid": 7, "command": "java", "mapped": True}],
    }
)
DONE = InitContainer("done", "Completed", "", "")
MONITORED_POD = Evidence(
    namespace="shop",
    pod="cart",
    taken_at=1.0,
    exists=True,
    phase="Running",
    node="worker-1",
    decision=Decision(True, "", ()),
    by_driver=True,
    init=DONE,
    owner=NamespaceOwner("shop", "shop", ("shop",), 1),
    webhook_ready=2,
    driver="oneagent-csi-driver-x",
    on_node=MONITORED,
)
NOT_INJECTED = dataclasses.replace(
    MONITORED_POD, decision=Decision(None, "", ()), by_driver=False, init=None, driver="", on_node=None
)
BY_INIT_CONTAINER = dataclasses.replace(MONITORED_POD, by_driver=False, driver="", on_node=None)
OPTED_OUT = Decision(False, "OptedOut", ('dynatrace.com/inject: "false"', 'oneagent.dynatrace.com/install-path: "/x"'))


def on_node(reason: str, sentence: str = "so it is", remedy: str = "do it") -> PodReport:
    return node_report.pod_from_json({"verdict": {"reason": reason, "sentence": sentence, "remedy": remedy}})


def shown(evidence: Evidence) -> str:
    return "\n".join(text.render(evidence, diagnose.diagnose(evidence), Screen()))


def replaced(evidence: Evidence, **changed: Any) -> Evidence:
    return dataclasses.replace(evidence, **changed)


@pytest.mark.parametrize(
    ("evidence", "reason", "sentence", "remedy"),
    [
        (MONITORED_POD, "Monitored", "pod shop/cart is monitored, on node worker-1", ""),
        (
            replaced(MONITORED_POD, owner=NamespaceOwner("", "", (), 1, {"shop": "team=shop"})),
            "Monitored",
            "pod shop/cart is monitored",
            "or the new one gets no agent: no DynaKube selects shop any more: DynaKube shop selects team=shop",
        ),
        (
            replaced(MONITORED_POD, owner=NamespaceOwner("", "", ("shop",), 1, {"shop": ""})),
            "Monitored",
            "pod shop/cart is monitored",
            "change ignored-namespaces of DynaKube shop before the pod restarts",
        ),
        (replaced(MONITORED_POD, owner=NamespaceOwner("", "", (), None)), "Monitored", "is monitored", ""),
        (replaced(MONITORED_POD, is_deleting=True), "Terminating", "is being deleted", "replaces it"),
        (replaced(MONITORED_POD, exists=False, owner=None), "NoPod", "there is no namespace shop", "KIND/NAME"),
        (
            replaced(MONITORED_POD, exists=False, unread=("Forbidden",)),
            "Unreadable",
            "can't be read: Forbidden",
            "account",
        ),
        (replaced(NOT_INJECTED, decision=OPTED_OUT), "OptedOut", '(dynatrace.com/inject: "false")', "pod template"),
        (
            replaced(
                NOT_INJECTED,
                decision=Decision(False, "DriverUnavailable", ()),
                events=(
                    Event(
                        "cart-1", "DriverUnavailable", f"pod cart-1 is not injected: {skip_reasons.DRIVER_UNAVAILABLE}"
                    ),
                ),
            ),
            "DriverUnavailable",
            "pod shop/cart was not injected: the CSI driver is unavailable",
            "kubectl oneagent status has the driver's problem; then restart its workload",
        ),
        (
            replaced(NOT_INJECTED, webhook_ready=None, webhook_absent_from="dynatrace"),
            "NotInstalled",
            "not installed, or half removed: the namespace dynatrace has no Deployment oneagent-webhook",
            "kubectl oneagent status",
        ),
        (
            replaced(NOT_INJECTED, owner=NamespaceOwner("", "", (), 0)),
            "NamespaceNotMonitored",
            "there is no DynaKube",
            "create a DynaKube",
        ),
        (
            replaced(
                NOT_INJECTED,
                decision=Decision(False, "DynaKubeNotReady", ()),
                events=(Event("cart-1", "DynaKubeNotReady", "no tenant"),),
            ),
            "DynaKubeNotReady",
            "Event: no tenant",
            "restart its workload",
        ),
        (
            replaced(NOT_INJECTED, decision=Decision(False, "NotSynced", ())),
            "NotSynced",
            "reached no decision",
            "log of oneagent-webhook",
        ),
        (
            replaced(NOT_INJECTED, owner=NamespaceOwner("", "", (), 2, {"shop": "team=shop", "web": "tier in (a,b)"})),
            "NamespaceNotMonitored",
            "of 2 that there are: DynaKube shop selects team=shop, DynaKube web selects tier in (a,b)",
            "kubectl get namespace shop --show-labels",
        ),
        (
            replaced(NOT_INJECTED, owner=NamespaceOwner("", "", (), 4, {name: f"team={name}" for name in "abcd"})),
            "NamespaceNotMonitored",
            "DynaKube c selects team=c, and 1 more",
            "labels that a DynaKube selects",
        ),
        (
            replaced(NOT_INJECTED, owner=NamespaceOwner("", "", ("shop",), 1)),
            "NamespaceIgnored",
            "ignores it",
            "ignored-namespaces",
        ),
        (
            replaced(NOT_INJECTED, owner=NamespaceOwner("", "shop", ("shop",), 1)),
            "WebhookNotCalled",
            "has no label",
            "operator",
        ),
        (NOT_INJECTED, "WebhookNotCalled", "older than the namespace's label", "restart its workload"),
        (replaced(NOT_INJECTED, webhook_ready=0), "WebhookNotCalled", "no pod of the webhook is ready", "doctor"),
        (replaced(NOT_INJECTED, mirror=True), "MirrorPod", "mirrors a static pod", ""),
        (
            replaced(MONITORED_POD, node="", scheduling="0/3 nodes are available", on_node=None),
            "NotScheduled",
            "0/3 nodes",
            "describe",
        ),
        (replaced(MONITORED_POD, phase="Succeeded"), "Ended", "has ended (Succeeded)", "running pod"),
        (
            replaced(MONITORED_POD, driver="", on_node=None),
            "NoDriver",
            "runs, but can't be removed when it ends: its node worker-1 has no pod of the driver",
            "doctor",
        ),
        (
            replaced(MONITORED_POD, on_node=None, node_problem="no answer"),
            "NodeUnreachable",
            "gives no report: no answer",
            "pods/exec",
        ),
        (
            replaced(MONITORED_POD, on_node=on_node("NoAgentMounted", "it runs without")),
            "NoAgentMounted",
            "it runs without, on node",
            "do it",
        ),
        (
            replaced(MONITORED_POD, on_node=on_node("NoVolume")),
            "NotPublished",
            "kubelet on node worker-1 has not requested its volume",
            "doctor",
        ),
        (
            replaced(MONITORED_POD, on_node=on_node("NoProcess"), container_problems=("shop: ErrImagePull",)),
            "NotStarted",
            "can't start: shop: ErrImagePull",
            "describe",
        ),
        (
            replaced(
                MONITORED_POD,
                on_node=on_node("NoProcess"),
                init=InitContainer("waiting", "CrashLoopBackOff", "the volume is empty.", ""),
            ),
            "InstallFailed",
            "can't start yet; its init container reports: the volume is empty",
            "Messages of the init container",
        ),
        (BY_INIT_CONTAINER, "Installed", "its init container has installed it", ""),
        (
            replaced(BY_INIT_CONTAINER, init=InitContainer("done", "", "not downloaded.", "")),
            "InstallFailed",
            "runs without its agent",
            "docs/",
        ),
        (replaced(BY_INIT_CONTAINER, init=InitContainer("running", "", "", "")), "Installing", "is running", "wait"),
        (
            replaced(
                BY_INIT_CONTAINER,
                init=InitContainer("waiting", "ImagePullBackOff", "", ""),
                container_problems=("install-oneagent: ImagePullBackOff",),
            ),
            "NotStarted",
            "install-oneagent: ImagePullBackOff",
            "describe",
        ),
    ],
)
def test_each_cause_has_its_diagnosis(evidence: Evidence, reason: str, sentence: str, remedy: str) -> None:
    verdict = diagnose.diagnose(evidence)
    assert verdict.reason == reason
    assert sentence in verdict.sentence
    assert remedy in verdict.remedy
    assert bool(verdict.remedy) is bool(remedy)
    assert shown(evidence).startswith(verdict.sentence[0].upper())


@pytest.mark.parametrize("before", [NOT_INJECTED, replaced(NOT_INJECTED, decision=OPTED_OUT), BY_INIT_CONTAINER])
def test_a_pod_whose_processes_have_the_library_is_monitored_however_it_got_it(before: Evidence) -> None:
    found = replaced(before, on_node=on_node("Monitored", "pod shop/cart is monitored"))
    assert diagnose.diagnose(found).reason == "Monitored"
    found = replaced(before, on_node=on_node("NoVolume"))
    assert diagnose.diagnose(found).reason == diagnose.diagnose(before).reason


def test_a_library_that_does_nothing_is_no_agent() -> None:
    """An init container that could not install leaves such a library, for `LD_PRELOAD` to find."""
    failed = InitContainer("done", "", "no room", "")
    found = replaced(BY_INIT_CONTAINER, init=failed, on_node=on_node("Monitored"))
    assert diagnose.diagnose(found).reason == "InstallFailed"


@pytest.mark.parametrize(
    "skip", [skip for skip in vars(skip_reasons).values() if isinstance(skip, SkipReason)], ids=lambda skip: skip.reason
)
def test_every_reason_that_the_webhook_writes_is_explained(skip: SkipReason) -> None:
    verdict = diagnose.diagnose(replaced(NOT_INJECTED, decision=Decision(False, skip.reason, ())))
    assert verdict.reason == skip.reason
    assert skip.why in verdict.sentence


def test_only_a_pod_with_its_agent_is_as_intended() -> None:
    assert diagnose.diagnose(MONITORED_POD).reason in why.AS_INTENDED
    assert diagnose.diagnose(BY_INIT_CONTAINER).reason in why.AS_INTENDED
    assert diagnose.diagnose(NOT_INJECTED).reason not in why.AS_INTENDED


def test_control_characters_of_a_pod_do_not_reach_the_terminal() -> None:
    evidence = replaced(BY_INIT_CONTAINER, init=InitContainer("done", "", "a\x1b[2Jb\x07", "c\x1b]0;d"))
    found = shown(evidence)
    assert "a?[2Jb?" in found
    assert found.replace("\n", "").isprintable()


def test_the_text_has_the_evidence() -> None:
    evidence = replaced(
        MONITORED_POD,
        decision=Decision(True, "", ('oneagent.dynatrace.com/install-path: "/x"',)),
        unread=("events: Forbidden",),
    )
    found = shown(evidence)
    for part in (
        "on node worker-1",
        "install-path",
        "mounted, DynaKube shop",
        "7 java: library loaded",
        "events: Forbidden",
    ):
        assert part in found
