"""What is found in a cluster, and nothing else than what is wrong."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.operator.cli import status
from oneagent.operator.cli.doctor import Mark, Severity, checks, dynakubes
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.tls_check import ServedCertificate
from oneagent.operator.reconcilers import tenant_connection, versions
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


def two_releases() -> Iterator[snapshots.Object]:
    """The driver's pods in the middle of an upgrade, and the webhook's."""
    yield from (dict(one) for one in snapshots.healthy().pods if one["metadata"]["name"] != DRIVER_POD)
    for node in (NODE, "a", "b", "c", "d"):
        spec = {"containers": [{"name": "server", "image": "old:1" if node == NODE else "new:2"}]}
        yield snapshots.pod(f"driver-{node}", component="csi-driver", node=node, spec=spec)


def trusting_another() -> ClusterSnapshot:
    found = snapshots.hooks("Mutating")
    found["webhooks"][0]["clientConfig"]["caBundle"] = OTHER
    return but(mutating=found)


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
        (but(deployments=()), "Deployments", "oneagent-operator is not in the namespace", "--operator-namespace"),
        (snapshots.scaled(0, 0), "Deployments", "scaled to 0: new pods start without their agent", "--replicas=2"),
        (snapshots.scaled(2, 1), "Deployments", "of 2 pods of oneagent-webhook 1 are ready", "describe"),
        (
            but(daemon_sets=(snapshots.workload("DaemonSet", "oneagent-csi-driver", "other:1"),)),
            "Release",
            "oneagent-csi-driver: other:1",
            "one release",
        ),
        (
            but(pods=tuple(two_releases())),
            "Release",
            "new:2 on a, b, c and 1 more; old:1 on worker-1. Nodes of both go on",
            "OnDelete",
        ),
        (
            but(namespaces=(snapshots.namespace("dynatrace", **{"pod-security.kubernetes.io/enforce": "restricted"}),)),
            "PodSecurity",
            "are refused",
            "enforce=privileged",
        ),
        (but(pending=(snapshots.pod("cart", "shop", status=PULLING),)), "Images", "pod shop/cart can't start", "pull"),
        (but(csi_driver=None), "Driver", "is not there, and the DaemonSet", "apply"),
        (
            but(daemon_sets=()),
            "Driver",
            "is there, and the DaemonSet oneagent-csi-driver is not",
            "csidriver.enabled=false",
        ),
        (but(daemon_sets=()), "NodesWithoutDriver", "no node keeps a driver", "apply the manifests or the chart again"),
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
            "patch secret shop",
        ),
        (but(dynakubes=(snapshots.dynakube(Tokens="Unknown"),)), "DynaKubes", "Tokens is Unknown (for ", "log"),
        (but(secrets={}), "Tokens", "the Secret shop of DynaKube shop does not exist", "create secret generic shop"),
        (but(secrets={"shop": frozenset({"other"})}), "Tokens", "has no key apiToken", "patch secret shop"),
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
        but(secrets={**snapshots.SECRET, "shop": frozenset({"paasToken"})}),
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


def removed(**left: object) -> ClusterSnapshot:
    """Remains of an uninstall in the wrong order."""
    workloads: dict[str, object] = {
        "deployments": (),
        "daemon_sets": (),
        "pods": (),
        "node_leases": (),
        "reports": (),
        "secrets": {},
    }
    return but(**{**workloads, **left})


def test_what_is_left_of_an_installation_is_named_with_the_commands_that_remove_it() -> None:
    finalizers = {"finalizers": ["oneagent.dynatrace.com/cleanup"]}
    kube = snapshots.dynakube()
    kube["metadata"] |= finalizers
    report = checks.run_checks(removed(dynakubes=(kube, deleted(name="old"), snapshots.dynakube("bare"))))
    (finding,) = (finding for finding in report.findings if finding.check == "Installation")
    assert "the label dynakube.internal.dynatrace.com/instance of 1 namespace" in finding.sentence
    drop = '--type=merge -p \'{"metadata":{"finalizers":null}}\''
    assert list(finding.commands) == [
        # Before the DynaKubes' change, which it would refuse.
        "kubectl delete mutatingwebhookconfiguration oneagent-webhook",
        "kubectl delete validatingwebhookconfiguration oneagent-webhook",
        f"kubectl -n dynatrace patch dynakube shop {drop}",
        "kubectl -n dynatrace delete dynakube shop",
        f"kubectl -n dynatrace patch dynakube old {drop}",
        "kubectl -n dynatrace delete dynakube bare",
        "kubectl label namespaces --all dynakube.internal.dynatrace.com/instance-",
        "kubectl delete csidriver csi.oneagent.dynatrace.com",
        # After the DynaKubes, for which it would wait.
        "kubectl delete crd dynakubes.dynatrace.com",
    ]


@pytest.mark.parametrize(
    "left",
    [
        {},
        {
            "definition": None,
            "mutating": None,
            "validating": None,
            "csi_driver": None,
            "dynakubes": (),
            "namespaces": (),
        },
    ],
    ids=["half of it", "nothing"],
)
def test_of_what_is_gone_no_check_says_that_it_is_well(left: dict[str, object]) -> None:
    report = checks.run_checks(removed(**left))
    assert [finding.check for finding in report.findings] == ["Installation"]
    passed = {result.check for result in report.results if result.mark is Mark.PASSED}
    assert passed == {"Deletion", "Leftovers"}
    skipped = {result.check for result in report.results if result.mark is Mark.SKIPPED}
    assert skipped == {check.name for check in checks.CHECKS} - passed - {"Installation"}


def refused(**reasons: str) -> snapshots.Object:
    """A DynaKube with failing conditions, by their reasons."""
    kube = snapshots.dynakube(**dict.fromkeys(("Ready", *reasons), "False"))
    for condition in kube["status"]["conditions"]:
        condition["reason"] = reasons.get(condition["type"], "Failing")
    return kube


def test_one_cause_is_one_problem() -> None:
    """Of rejected tokens another condition fails too, and of a missing Secret both."""
    assert dynakubes.TOKENS_REFUSED == tenant_connection.TOKENS_REFUSED
    kube = refused(Tokens="TokensError", OneAgentConnectionInfo=dynakubes.TOKENS_REFUSED)
    (problem,) = status.summarize(but(dynakubes=(kube,))).problems
    assert problem.sentence == "DynaKube shop: Tokens: Tokens is False"
    assert problem.remedy == (
        'kubectl -n dynatrace patch secret shop --type=merge -p \'{"stringData":{"apiToken":"TOKEN"}}\''
    )
    secrets = {name: keys for name, keys in snapshots.SECRET.items() if name != "shop"}
    (problem,) = status.summarize(but(dynakubes=(kube,), secrets=secrets)).problems
    assert problem.sentence.startswith("the Secret shop of DynaKube shop does not exist")


def test_an_unreachable_tenant_is_one_problem_with_what_to_check() -> None:
    assert dynakubes.UNREACHABLE == tenant_connection.UNREACHABLE
    kube = refused(
        TenantConfiguration="Failing", OneAgentConnectionInfo=dynakubes.UNREACHABLE, NamespaceMapping="Failing"
    )
    own = {condition["type"]: condition for condition in kube["status"]["conditions"]}
    own["OneAgentConnectionInfo"]["message"] = "https://tenant.example/api: cannot connect"
    own["TenantConfiguration"]["message"] = "agents cannot be configured: https://tenant.example/api: cannot connect"
    connection, mapping = status.summarize(but(dynakubes=(kube,))).problems
    assert connection.sentence.startswith("DynaKube shop: OneAgentConnectionInfo: https://tenant.example/api")
    assert connection.remedy.startswith("allow connections from the cluster to that server")
    assert "NamespaceMapping" in mapping.sentence


def test_a_driver_that_leaves_is_no_problem_of_its_node() -> None:
    leaving = snapshots.pod(DRIVER_POD, component="csi-driver", deletionTimestamp="2023-11-14T22:13:00Z")
    cluster = but(daemon_sets=(), pods=(leaving,), reports=(snapshots.report(problems=["no provisioner"]),))
    assert [finding.check for finding in checks.run_checks(cluster).findings] == ["Driver", "NodesWithoutDriver"]


def selecting(**labels: str) -> tuple[Object, ...]:
    """The DaemonSet with a nodeSelector."""
    daemon_sets = copy.deepcopy(but().daemon_sets)
    daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"] = labels
    return daemon_sets


def test_a_daemon_set_that_selects_no_node_is_a_problem() -> None:
    (problem,) = status.summarize(but(daemon_sets=selecting(pool="agents"), pods=())).problems
    assert problem.sentence.endswith("no node has the labels of its nodeSelector, pool=agents")


def test_a_pod_that_waits_on_a_node_without_a_driver_is_an_error() -> None:
    volume = {"name": "oneagent-bin", "csi": {"driver": "csi.oneagent.dynatrace.com"}}
    waiting = snapshots.pod("cart", "shop", spec={"volumes": [volume]})
    cluster = but(daemon_sets=selecting(pool="agents"), pods=(), pending=(waiting,))
    (finding,) = (one for one in checks.run_checks(cluster).findings if one.check == "NodesWithoutDriver")
    assert (finding.severity, "can't start there: shop/cart" in finding.sentence) == ("error", True)
    other = dataclasses.replace(cluster, pending=(snapshots.pod("free", "shop"),))
    (finding,) = (one for one in checks.run_checks(other).findings if one.check == "NodesWithoutDriver")
    assert finding.severity == "note"


def test_a_daemon_set_that_is_being_deleted_is_a_problem() -> None:
    deleting = copy.deepcopy(but().daemon_sets)
    deleting[0]["metadata"]["deletionTimestamp"] = "2023-11-14T22:13:00Z"
    (problem,) = status.summarize(but(daemon_sets=deleting)).problems
    assert problem.sentence == "the DaemonSet oneagent-csi-driver is being deleted: new pods start without their agent"


def test_what_was_not_read_is_not_taken_for_absent() -> None:
    cluster = but(secrets={}, definition=None, unread={"secrets": "Forbidden", "definition": "Forbidden"})
    found = checks.run_checks(cluster).findings
    assert {finding.check for finding in found} == {"Unread"}


def test_errors_come_before_warnings_and_notes() -> None:
    cluster = but(
        secrets={"oneagent-webhook-certs": frozenset(), "oneagent-webhook-ca": frozenset()},
        served=(ServedCertificate("y", unreachable="no way"),),
        definition={
            **snapshots.definition(),
            "status": {"conditions": snapshots.holding("Established"), "storedVersions": ["v1beta5", "v1beta6"]},
        },
    )
    assert [finding.severity for finding in checks.run_checks(cluster).findings] == list(Severity)


def test_a_check_with_a_defect_is_one_finding_and_ends_no_other() -> None:
    odd = {**snapshots.definition(), "spec": {"versions": [{"storage": True}]}}
    report = checks.run_checks(but(definition=odd, mutating=None))
    (defect,) = (finding for finding in report.findings if finding.check == "Definition")
    assert "a defect of its own: KeyError" in defect.sentence
    assert "WebhookConfigurations" in {finding.check for finding in report.findings}
    assert len(report.results) == len(checks.CHECKS)


def test_a_pod_that_is_being_deleted_raises_no_alarm() -> None:
    leaving = {"deletionTimestamp": "2023-11-14T00:00:00Z"}
    gone = snapshots.pod(DRIVER_POD, component="csi-driver", status={"conditions": []}, **leaving)
    pulling = snapshots.pod("cart", "shop", status=PULLING, **leaving)
    found = checks.run_checks(but(pods=(gone,), pending=(pulling,), reports=()))
    assert found.healthy, found.findings


def deleted(**fields: object) -> snapshots.Object:
    kube = snapshots.dynakube()
    kube["metadata"] |= {"deletionTimestamp": "2023-11-14T20:00:00Z", "finalizers": ["x/y"], **fields}
    return kube


def test_a_deletion_that_waits_for_an_operator_that_is_gone_is_named_with_the_way_out() -> None:
    webhook = snapshots.workload("Deployment", "oneagent-webhook")
    (found,) = (
        finding
        for finding in checks.run_checks(but(dynakubes=(deleted(),), deployments=(webhook,))).findings
        if finding.check == "Deletion"
    )
    assert "no operator runs that removes its finalizer x/y" in found.sentence
    assert "finalizers" in found.remedy
    (found,) = (
        finding for finding in checks.run_checks(but(dynakubes=(deleted(),))).findings if finding.check == "Deletion"
    )
    assert found.remedy == "the operator's log has the reason"


def test_a_deletion_that_has_just_begun_is_none_that_is_stuck() -> None:
    kube = deleted(deletionTimestamp="2023-11-14T22:13:00Z")
    assert not [
        finding for finding in checks.run_checks(but(dynakubes=(kube,))).findings if finding.check == "Deletion"
    ]


@pytest.mark.parametrize(("rollout", "check"), [("False", "DynaKubes"), ("True", "Nodes")])
def test_a_version_that_is_not_installed_is_one_finding(rollout: str, check: str) -> None:
    message = "https://h/v2/agent/manifests/1: answered 404"
    kube = snapshots.dynakube(AgentRollout=rollout)
    kube["status"]["conditions"][-1]["message"] = f"Agent version 1.291.0 was not installed on 1 of 1 nodes: {message}"
    failed = {"version": "1.291.0", "state": "failed", "message": message, "wanted_by": ["shop"]}
    problems = [f"version 1.291.0 can't be installed: {message}", f"pod shop/a runs without its agent ({message})"]
    report = snapshots.report(problems=problems, versions=[failed])
    findings = checks.run_checks(but(dynakubes=(kube,), reports=(report,))).findings
    (found,) = (finding for finding in findings if "pod shop/a" not in finding.sentence)
    assert len(findings) == 2
    assert found.check == check
    if check == "DynaKubes":
        assert found.remedy.startswith("correct the name of the image")


def test_a_tenant_that_does_not_answer_is_one_finding_with_what_to_open() -> None:
    problem = "https://tenant.example.com/api/v1/deployment/installer: cannot connect (Connection refused)"
    texts = {
        "Tokens": ("Unknown", tenant_connection.NOT_POLLED, f"the poll of the tenant failed: {problem}"),
        "OneAgentConnectionInfo": (
            "False",
            tenant_connection.UNREACHABLE,
            f"{problem}; the last known endpoints stay in use",
        ),
        "CodeModulesVersion": ("Unknown", versions.NOT_KNOWN, f"the tenant's latest version is not known: {problem}"),
    }
    kube = snapshots.dynakube(OneAgentConnectionInfo="False", CodeModulesVersion="Unknown")
    for condition in kube["status"]["conditions"]:
        if condition["type"] in texts:
            condition["status"], condition["reason"], condition["message"] = texts[condition["type"]]
    (found,) = checks.run_checks(but(dynakubes=(kube,))).findings
    assert found.sentence.startswith(f"DynaKube shop: OneAgentConnectionInfo: {problem}")
    assert found.remedy.startswith("allow connections from the cluster to that server")
