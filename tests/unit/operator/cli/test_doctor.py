"""What is found in a cluster, and nothing else than what is wrong."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.operator.cli import status
from oneagent.operator.cli.doctor import Severity, checks
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.tls_check import ServedCertificate
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE, NOW, but

OTHER = "b3RoZXI="
LEAVING = snapshots.obj(
    "Namespace", "old", metadata={"deletionTimestamp": "x", "labels": {namespace_mapping.LABEL: "gone"}}
)
PULLING = {
    "initContainerStatuses": [{"name": "install-oneagent", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
}


def without(field: str, key: str) -> ClusterSnapshot:
    """The same with an object that lacks something."""
    found = {"definition": snapshots.definition(), "mutating": snapshots.hooks("Mutating")}[field]
    place = found["spec"]["conversion"]["webhook"] if field == "definition" else found["webhooks"][0]
    del place["clientConfig"][key]
    return but(**{field: found})


def trusting_another() -> ClusterSnapshot:
    found = snapshots.hooks("Mutating")
    found["webhooks"][0]["clientConfig"]["caBundle"] = OTHER
    return but(mutating=found)


def scaled(replicas: int, ready: int) -> ClusterSnapshot:
    webhook = snapshots.workload("Deployment", "oneagent-webhook")
    webhook["spec"]["replicas"], webhook["status"]["readyReplicas"] = replicas, ready
    return but(deployments=(snapshots.workload("Deployment", "oneagent-operator"), webhook))


def test_nothing_is_found_in_a_cluster_that_is_well() -> None:
    found = checks.run_checks(snapshots.healthy())
    assert found.findings == ()
    assert found.healthy
    assert len(found.checks) == len(checks.CHECKS)


@pytest.mark.parametrize(
    ("cluster", "check", "sentence", "remedy"),
    [
        (but(definition=None), "Definition", "is not there", "deploy/crd.yaml"),
        (but(definition={**snapshots.definition(), "status": {}}), "Definition", "is not established", "names"),
        (but(mutating=None), "WebhookConfigurations", "no pod gets an agent", "apply"),
        (but(deployments=()), "WebhookConfigurations", "the Deployment oneagent-webhook is not", "delete"),
        (
            without("definition", "caBundle"),
            "Trust",
            "conversion of dynakubes.dynatrace.com: it has no caBundle",
            "operator",
        ),
        (without("mutating", "caBundle"), "Trust", "mutating webhook webhook.pod.dynatrace.com", "operator"),
        (trusting_another(), "Trust", "different caBundles", "renewed"),
        (
            but(served=(ServedCertificate("y", problem="certificate has expired"),)),
            "Certificate",
            "expired",
            "oneagent-webhook-certs",
        ),
        (
            but(served=(ServedCertificate("y", unreachable="no way"),)),
            "Certificate",
            "unknown: no way",
            "pods/portforward",
        ),
        (but(served=(ServedCertificate("y", NOW - 90, NOW + 10),)), "Certificate", "was not renewed in time", "log"),
        (but(deployments=()), "Deployments", "oneagent-operator is not in the namespace", "--namespace"),
        (scaled(0, 0), "Deployments", "scaled to 0: new pods start without their agent", "--replicas=2"),
        (scaled(2, 1), "Deployments", "of 2 pods of oneagent-webhook 1 are ready", "describe"),
        (
            but(daemon_sets=(snapshots.workload("DaemonSet", "oneagent-csi-driver", "other:1"),)),
            "Release",
            "oneagent-csi-driver: other:1",
            "one release",
        ),
        (
            but(namespaces=(snapshots.namespace("dynatrace", **{"pod-security.kubernetes.io/enforce": "restricted"}),)),
            "PodSecurity",
            "are refused",
            "enforce=privileged",
        ),
        (but(pending=(snapshots.pod("cart", "shop", status=PULLING),)), "Images", "pod shop/cart can't start", "pull"),
        (but(csi_driver=None), "Driver", "is not there, and the DaemonSet", "apply"),
        (but(daemon_sets=()), "Driver", "is there, and the DaemonSet oneagent-csi-driver is not", "install"),
        (
            but(
                csi_driver={
                    **snapshots.csi_driver(),
                    "spec": {**snapshots.csi_driver()["spec"], "podInfoOnMount": False},
                }
            ),
            "Driver",
            "podInfoOnMount: False, and not True",
            "delete the CSIDriver",
        ),
        (
            but(nodes=(snapshots.node(), snapshots.node("worker-2"))),
            "NodesWithoutDriver",
            "node worker-2 has no pod",
            "tolerations",
        ),
        (but(csi_nodes=(snapshots.csi_node(driver="other"),)), "Registration", f"kubelet on node {NODE}", "registrar"),
        (
            but(reports=(NodeReport(NODE, DRIVER_POD, None, "no response within 30 s"),)),
            "Nodes",
            "gives no report",
            "pods/exec",
        ),
        (
            but(reports=(snapshots.report(problems=["the disk is full"]),)),
            "Nodes",
            f"node {NODE}: the disk is full",
            "oneagent-csi status",
        ),
        (
            but(dynakubes=(snapshots.dynakube(Tokens="False"),)),
            "DynaKubes",
            "DynaKube shop: Tokens: Tokens is False",
            "describe",
        ),
        (but(dynakubes=(snapshots.dynakube(Tokens="Unknown"),)), "DynaKubes", "Tokens is Unknown (for ", "log"),
        (but(secrets={}), "Tokens", "the Secret shop of DynaKube shop does not exist", "create secret generic shop"),
        (but(secrets={"shop": frozenset({"other"})}), "Tokens", "has no key apiToken", "apiToken=TOKEN"),
        (but(namespaces=(snapshots.namespace("shop", team="shop"),)), "Namespaces", "its label", "NamespaceMapping"),
        (
            but(namespaces=(snapshots.namespace("old", **{namespace_mapping.LABEL: "gone"}),)),
            "Leftovers",
            "there is no DynaKube gone",
            "instance-",
        ),
        (
            but(namespaces=(snapshots.namespace("old", **{namespace_mapping.LABEL: "shop"}),)),
            "Leftovers",
            "no DynaKube selects it",
            "operator",
        ),
        (but(injection_secrets=("dynatrace",)), "Leftovers", "namespace dynatrace has a Secret", "delete secret"),
        (but(unread={"nodes": "Forbidden"}), "Unread", "NodesWithoutDriver could not be checked: Forbidden", "account"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(
    cluster: ClusterSnapshot, check: str, sentence: str, remedy: str
) -> None:
    report = checks.run_checks(cluster)
    found = [finding for finding in report.findings if finding.check == check]
    assert any(sentence in finding.sentence and remedy in finding.remedy for finding in found), report.findings
    assert not report.healthy


@pytest.mark.parametrize(
    "cluster",
    [
        but(csi_driver=None, daemon_sets=(), pods=(), reports=()),
        but(nodes=(snapshots.node(), snapshots.node("windows", **{"kubernetes.io/os": "windows"}))),
        but(injection_secrets=("shop",)),
        but(served=(ServedCertificate("y", NOW - 10, NOW + 90),)),
        but(dynakubes=(), namespaces=()),
        but(secrets={"shop": frozenset({"paasToken"})}),
        but(namespaces=(LEAVING,), injection_secrets=("old",)),
    ],
    ids=[
        "no CSI",
        "a node of Windows",
        "a Secret where it belongs",
        "a new certificate",
        "no DynaKube",
        "only the token that is used instead",
        "a namespace that goes",
    ],
)
def test_what_has_to_be_so_is_no_finding(cluster: ClusterSnapshot) -> None:
    assert checks.run_checks(cluster).healthy


def test_a_dynakube_without_a_spec_is_judged_like_any_other() -> None:
    bare = snapshots.obj("DynaKube", "shop", snapshots.NAMESPACE)
    found = checks.run_checks(but(dynakubes=(bare,), namespaces=())).findings
    assert [finding.sentence for finding in found] == ["the operator has not reconciled DynaKube shop yet"]
    (row,) = status.summarize(but(dynakubes=(bare,))).dynakubes
    assert (row.mode, row.ready) == ("", False)


def test_what_was_not_read_is_not_taken_for_absent() -> None:
    cluster = but(secrets={}, definition=None, unread={"secrets": "Forbidden", "definition": "Forbidden"})
    found = checks.run_checks(cluster).findings
    assert {finding.check for finding in found} == {"Unread"}


def test_errors_come_before_warnings_and_notes() -> None:
    cluster = but(
        secrets={},
        served=(ServedCertificate("y", unreachable="no way"),),
        definition={
            **snapshots.definition(),
            "status": {"conditions": snapshots.holding("Established"), "storedVersions": ["v1beta5", "v1beta6"]},
        },
    )
    assert [finding.severity for finding in checks.run_checks(cluster).findings] == list(Severity)
