"""One verdict on a pod, whoever knows the reason: the webhook, the scheduler, the init container, or the node."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oneagent.common import node_report
from oneagent.common.injection import skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.common.node_report import PodReport
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
GOOD = Evidence(
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
PLAIN = dataclasses.replace(GOOD, decision=Decision(None, "", ()), by_driver=False, init=None, driver="", on_node=None)
ITSELF = dataclasses.replace(GOOD, by_driver=False, driver="", on_node=None)
OPTED_OUT = Decision(False, "OptedOut", ('dynatrace.com/inject: "false"', 'oneagent.dynatrace.com/install-path: "/x"'))


def on_node(reason: str, sentence: str = "so it is", remedy: str = "do it") -> PodReport:
    return node_report.pod_from_json({"verdict": {"reason": reason, "sentence": sentence, "remedy": remedy}})


def of(found: Evidence, **changed: Any) -> Evidence:
    return dataclasses.replace(found, **changed)


@pytest.mark.parametrize(
    ("found", "reason", "sentence", "remedy"),
    [
        (GOOD, "Monitored", "pod shop/cart is monitored, on node worker-1", ""),
        (of(GOOD, exists=False, owner=None), "NoPod", "there is no namespace shop", "get pods"),
        (of(GOOD, exists=False, unread=("Forbidden",)), "NoPod", "can't be read: Forbidden", "account"),
        (of(PLAIN, decision=OPTED_OUT), "OptedOut", '(dynatrace.com/inject: "false")', "pod template"),
        (
            of(
                PLAIN,
                decision=Decision(False, "DynaKubeNotReady", ()),
                events=(Event("cart-1", "DynaKubeNotReady", "no tenant"),),
            ),
            "DynaKubeNotReady",
            "Event: no tenant",
            "restart its workload",
        ),
        (
            of(PLAIN, decision=Decision(False, "NotSynced", ())),
            "NotSynced",
            "reached no decision",
            "log of oneagent-webhook",
        ),
        (
            of(PLAIN, owner=NamespaceOwner("", "", (), 0)),
            "NamespaceNotMonitored",
            "there is no DynaKube",
            "namespaceSelector",
        ),
        (
            of(PLAIN, owner=NamespaceOwner("", "", (), 2)),
            "NamespaceNotMonitored",
            "no DynaKube selects it, of 2",
            "--show-labels",
        ),
        (of(PLAIN, owner=NamespaceOwner("", "", ("shop",), 1)), "NamespaceIgnored", "ignores it", "ignored-namespaces"),
        (of(PLAIN, owner=NamespaceOwner("", "shop", ("shop",), 1)), "WebhookNotCalled", "has no label", "operator"),
        (PLAIN, "WebhookNotCalled", "older than the namespace's label", "restart its workload"),
        (of(PLAIN, webhook_ready=0), "WebhookNotCalled", "no pod of the webhook is ready", "doctor"),
        (of(PLAIN, mirror=True), "MirrorPod", "mirrors a pod", ""),
        (
            of(GOOD, node="", scheduling="0/3 nodes are available", on_node=None),
            "NotScheduled",
            "0/3 nodes",
            "describe",
        ),
        (of(GOOD, phase="Succeeded"), "Ended", "has ended (Succeeded)", "running pod"),
        (of(GOOD, driver="", on_node=None), "NoDriver", "its node worker-1 has no pod of the driver", "doctor"),
        (
            of(GOOD, on_node=None, node_problem="no answer"),
            "NodeUnreachable",
            "gives no report: no answer",
            "pods/exec",
        ),
        (
            of(GOOD, on_node=on_node("NoAgentMounted", "it runs without")),
            "NoAgentMounted",
            "it runs without, on node",
            "do it",
        ),
        (
            of(GOOD, on_node=on_node("NoVolume")),
            "NotPublished",
            "kubelet on node worker-1 has not requested its volume",
            "doctor",
        ),
        (
            of(GOOD, on_node=on_node("NoProcess"), troubles=("shop: ErrImagePull",)),
            "NotStarted",
            "can't start: shop: ErrImagePull",
            "describe",
        ),
        (
            of(
                GOOD,
                on_node=on_node("NoProcess"),
                init=InitContainer("waiting", "CrashLoopBackOff", "the volume is empty.", ""),
            ),
            "InstallFailed",
            "can't start yet; its init container reports: the volume is empty",
            "What the init container says",
        ),
        (ITSELF, "Installed", "its init container has installed it", ""),
        (
            of(ITSELF, init=InitContainer("done", "", "not downloaded.", "")),
            "InstallFailed",
            "runs without its agent",
            "docs/",
        ),
        (of(ITSELF, init=InitContainer("running", "", "", "")), "Installing", "is running", "wait"),
        (
            of(
                ITSELF,
                init=InitContainer("waiting", "ImagePullBackOff", "", ""),
                troubles=("install-oneagent: ImagePullBackOff",),
            ),
            "NotStarted",
            "install-oneagent: ImagePullBackOff",
            "describe",
        ),
    ],
)
def test_each_cause_has_its_verdict(found: Evidence, reason: str, sentence: str, remedy: str) -> None:
    verdict = diagnose.diagnose(found)
    assert verdict.reason == reason
    assert sentence in verdict.sentence
    assert remedy in verdict.remedy
    assert bool(verdict.remedy) is bool(remedy)
    assert text.render(found, verdict).startswith(verdict.sentence[0].upper())


@pytest.mark.parametrize(
    "skip", [skip for skip in vars(skip_reasons).values() if isinstance(skip, SkipReason)], ids=lambda skip: skip.reason
)
def test_every_reason_that_the_webhook_writes_is_explained(skip: SkipReason) -> None:
    verdict = diagnose.diagnose(of(PLAIN, decision=Decision(False, skip.reason, ())))
    assert verdict.reason == skip.reason
    assert skip.why in verdict.sentence


def test_only_a_pod_with_its_agent_is_good() -> None:
    assert diagnose.diagnose(GOOD).reason in why.AS_INTENDED
    assert diagnose.diagnose(ITSELF).reason in why.AS_INTENDED
    assert diagnose.diagnose(PLAIN).reason not in why.AS_INTENDED


def test_a_pod_can_not_write_on_the_terminal_of_who_asks_about_it() -> None:
    found = of(ITSELF, init=InitContainer("done", "", "a\x1b[2Jb\x07", "c\x1b]0;d"))
    shown = text.render(found, diagnose.diagnose(found))
    assert "a?[2Jb?" in shown
    assert shown.replace("\n", "").isprintable()


def test_people_see_what_the_verdict_rests_on() -> None:
    found = of(
        GOOD, decision=Decision(True, "", ('oneagent.dynatrace.com/install-path: "/x"',)), unread=("events: Forbidden",)
    )
    shown = text.render(found, diagnose.diagnose(found))
    for part in (
        "on node worker-1",
        "install-path",
        "mounted, DynaKube shop",
        "7 java: library loaded",
        "events: Forbidden",
    ):
        assert part in shown
