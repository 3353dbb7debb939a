"""Each node and each DynaKube has its row, whatever is wrong with it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Final

import pytest

from oneagent.common.terminal import Screen
from oneagent.operator.cli import output, status
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot, NodeChoice
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE, but

WITHOUT_DRIVER: Final[dict[str, Any]] = {
    "csi_driver": None,
    "csi_nodes": (),
    "pods": (),
    "reports": (),
    "node_leases": (),
    "daemon_sets": (),
}
LEAVING = {"deletionTimestamp": "2023-11-14T00:00:00Z"}


def reporting(**fields: Any) -> ClusterSnapshot:
    return but(reports=(snapshots.report(**fields),))


@pytest.mark.parametrize(
    ("cluster", "driver", "problem"),
    [
        (but(pods=(), reports=()), "none", "no pod of the driver"),
        (but(csi_nodes=()), "ready", "the driver is not registered with kubelet"),
        (reporting(problems=["the disk is full"]), "ready", "the disk is full"),
        (but(reports=(NodeReport(NODE, DRIVER_POD, None, "no answer"),)), "ready", "no answer"),
    ],
)
def test_what_is_wrong_with_a_node_stands_in_its_row(cluster: ClusterSnapshot, driver: str, problem: str) -> None:
    found = status.summarize(cluster)
    (row,) = found.nodes
    assert (row.driver, row.problems) == (driver, (problem,))
    assert not found.is_healthy


def test_a_cluster_that_is_well_is_told_so_without_a_driver_too() -> None:
    assert status.summarize(snapshots.healthy()).is_healthy
    assert status.summarize(but(**WITHOUT_DRIVER)).is_healthy


def test_a_node_that_the_driver_is_not_for_needs_nobody() -> None:
    linux = {"kubernetes.io/os": "linux"}
    driver = snapshots.workload("DaemonSet", "oneagent-csi-driver")
    driver["spec"]["template"]["spec"]["nodeSelector"] = linux
    nodes = (snapshots.node(**linux), snapshots.node("windows-1", **{"kubernetes.io/os": "windows"}))
    found = status.summarize(but(nodes=nodes, daemon_sets=(driver,)))
    assert [(row.node, row.driver) for row in found.nodes] == [("windows-1", "none"), (NODE, "ready")]
    assert found.is_healthy


def test_what_could_not_be_read_is_not_well() -> None:
    found = status.summarize(but(unread={"nodes": "Forbidden"}))
    assert (found.is_healthy, found.unread) == (False, ("Forbidden",))


def test_a_dynakube_that_is_not_ready_says_why() -> None:
    found = status.summarize(but(dynakubes=(snapshots.dynakube(Ready="False"),)))
    (row,) = found.dynakubes
    assert (row.name, row.mode, row.ready, row.message) == ("shop", "applicationMonitoring", False, "Ready is False")
    assert not found.is_healthy


def test_of_two_pods_on_a_node_the_one_that_stays_is_asked() -> None:
    old = snapshots.pod("old", component="csi-driver", **LEAVING)
    new = snapshots.pod("new", component="csi-driver")
    for order in ((old, new), (new, old)):
        assert but(pods=order).drivers == {NODE: new}


def shown(cluster: ClusterSnapshot, **options: bool) -> str:
    return "\n".join(output.status_lines(status.summarize(cluster), Screen(), **options))


def test_the_tables_hold_what_people_ask_for() -> None:
    text = shown(reporting(problems=["[red]the \x1b[31mdisk"]), is_wide=True)
    for part in (NODE, "1.290.0.20261001-120000", "applicationMonitoring", "[red]the ?[31mdisk"):
        assert part in text


def test_only_problems_are_shown_if_asked_for() -> None:
    assert shown(snapshots.healthy(), has_summary=False) == ""
    assert shown(reporting(problems=["the disk is full"]), has_summary=False).startswith("✗ node worker-1: the disk")


class TestTheTruth:
    """`status` is healthy only if everything that is installed works."""

    @pytest.mark.parametrize("name", ["oneagent-operator", "oneagent-webhook"])
    def test_a_deployment_that_is_scaled_to_0_is_a_problem(self, name: str) -> None:
        cluster = snapshots.healthy()
        deployments = [copy.deepcopy(one) for one in cluster.deployments]
        for one in deployments:
            if one["metadata"]["name"] == name:
                one["spec"]["replicas"] = one["status"]["readyReplicas"] = 0
        found = status.summarize(but(deployments=tuple(deployments)))
        assert [problem.check for problem in found.problems] == ["Deployments"]

    @pytest.mark.parametrize("secret", ["shop", "oneagent-webhook-certs", "oneagent-webhook-ca"])
    def test_a_secret_that_was_deleted_is_a_problem(self, secret: str) -> None:
        secrets = {name: keys for name, keys in snapshots.SECRET.items() if name != secret}
        (problem,) = status.summarize(but(secrets=secrets)).problems
        assert secret in problem.sentence

    def test_a_driver_of_which_not_all_containers_are_ready_is_a_problem(self) -> None:
        statuses = [{"name": name, "ready": name != "d"} for name in "abcd"]
        spec = {"containers": [{"name": name} for name in "abcd"]}
        pod = snapshots.pod(
            DRIVER_POD, component="csi-driver", spec=spec, status={"conditions": [], "containerStatuses": statuses}
        )
        found = status.summarize(but(pods=(pod,), reports=()))
        assert found.nodes[0].problems == ("the driver is not ready: 3 of 4 containers are ready",)
        assert found.summary.nodes_ready == 0

    def test_after_an_uninstall_nothing_is_well(self) -> None:
        gone = {"mutating": None, "validating": None, "definition": None, "deployments": (), "dynakubes": ()}
        found = status.summarize(but(**WITHOUT_DRIVER, **gone, secrets={}))
        assert (found.installation, found.is_healthy) == ("half removed", False), "a label is left"
        found = status.summarize(but(**WITHOUT_DRIVER, **gone, secrets={}, namespaces=()))
        assert (found.installation, found.is_healthy) == ("not installed", False)
        assert "not installed" in found.problems[0].sentence

    def test_an_installation_in_another_namespace_is_named_and_not_removed(self) -> None:
        elsewhere = {"deployments": (), "dynakubes": (), "pods": (), "secrets": {}, "namespace": "wrong"}
        cluster = but(**{**WITHOUT_DRIVER, **elsewhere, "csi_driver": snapshots.csi_driver()})
        (problem,) = status.summarize(cluster).problems
        assert (problem.remedy, problem.commands) == ("set --operator-namespace=dynatrace", ())
        assert [one.check for one in checks.run_checks(cluster).findings] == ["Installation"]

    def test_pods_of_the_driver_that_stay_after_an_uninstall_are_named(self) -> None:
        gone = {"mutating": None, "validating": None, "definition": None, "deployments": (), "dynakubes": ()}
        staying = snapshots.pod(DRIVER_POD, component="csi-driver", **LEAVING)
        found = status.summarize(but(**{**WITHOUT_DRIVER, **gone, "pods": (staying,), "namespaces": (), "secrets": {}}))
        (problem,) = found.problems
        assert "the driver's pod on 1 node, until the last pod with its volume has ended" in problem.sentence
        assert problem.remedy.startswith("restart the monitored workloads")

    def test_a_pod_that_is_being_deleted_or_was_just_started_is_no_problem(self) -> None:
        leaving = snapshots.pod(DRIVER_POD, component="csi-driver", **LEAVING)
        starting = snapshots.pod(
            DRIVER_POD, component="csi-driver", status={"conditions": []}, creationTimestamp="2023-11-14T22:13:00Z"
        )
        for pod, state in ((leaving, "terminating"), (starting, "starting")):
            found = status.summarize(but(pods=(pod,), reports=(), node_leases=()))
            assert (found.nodes[0].driver, found.problems) == (state, ())

    def test_what_could_not_be_read_makes_nothing_uninstalled(self) -> None:
        unread = {"deployments": "Forbidden", "daemon_sets": "Forbidden"}
        found = status.summarize(but(deployments=(), daemon_sets=(), unread=unread))
        assert found.installation == "installed"
        assert not found.is_healthy


def fleet(number: int, *leases: snapshots.Object) -> ClusterSnapshot:
    """A healthy cluster of so many nodes, with these Leases in place of their nodes' own."""
    names = [f"node-{one:04}" for one in range(number)]
    own = {lease["spec"]["holderIdentity"]: lease for lease in (*map(snapshots.lease, names), *leases)}
    return but(
        nodes=tuple(map(snapshots.node, names)),
        csi_nodes=tuple(map(snapshots.csi_node, names)),
        pods=tuple(snapshots.pod(f"driver-{name}", component="csi-driver", node=name) for name in names),
        node_leases=tuple(own.values()),
        reports=(),
    )


class TestManyNodes:
    def test_are_told_of_by_their_leases_alone(self) -> None:
        failing = snapshots.lease("node-0002", "failed", "404 Not Found")
        found = status.summarize(fleet(5, failing))
        assert [row.versions for row in found.nodes][:3] == [("1.290.0.20261001-120000",)] * 2 + [()]
        problem = "DynaKube shop: version 1.290.0.20261001-120000 can't be installed: 404 Not Found"
        assert found.nodes[2].problems == (problem,)
        assert [row.problems for row in found.nodes if row.node != "node-0002"] == [()] * 4
        assert found.dynakubes[0].nodes == {"ready": 4, "failed": 1}

    def test_without_a_report_or_with_a_corrupt_version_have_a_problem(self) -> None:
        cluster = fleet(3, snapshots.lease("node-0001", corrupt_at=snapshots.NOW - 60))
        without = tuple(one for one in cluster.node_leases if one["spec"]["holderIdentity"] != "node-0002")
        rows = status.summarize(dataclasses.replace(cluster, node_leases=without)).nodes
        assert "was found corrupt: lib.so" in rows[1].problems[0]
        assert rows[2].problems[0].startswith("no report")

    def test_that_are_well_are_only_counted(self) -> None:
        failing = [snapshots.lease(f"node-{one:04}", "failed", "no space") for one in range(5)]
        text = shown(fleet(5000, *failing))
        assert "4995 of 5000 nodes ready" in text
        assert "5 nodes (node-0000, node-0001, node-0002 and 2 more): DynaKube shop: version" in text
        assert len(text.splitlines()) < 10
        assert "4995 ready, 5 failed" in shown(fleet(5000, *failing), is_wide=True)

    def test_are_shown_by_name_alone(self) -> None:
        rows = status.summarize(fleet(5), ["node-0003"]).nodes
        assert [row.node for row in rows] == ["node-0003"]


DOWNLOAD = "https://h/api/v1/deployment/installer/agent/unix/paas/version/1.290.0.20261001-120000: answered"
MISSING = f"{DOWNLOAD} 404: Not Found"
REFUSED = f"{DOWNLOAD} 403: Token is missing (check apiToken of the DynaKube's secret: it needs the scope X)"


def failing(*messages: str, condition: str = "", report: str = "", **conditions: str) -> list[tuple[str, str]]:
    """Problems of a cluster of 4 nodes, with these messages of failed installs on the first ones."""
    leases = [snapshots.lease(f"node-{number:04}", "failed", text) for number, text in enumerate(messages)]
    kube = snapshots.dynakube(**{"Ready": "False", "AgentRollout": "False", **conditions})
    for one in kube["status"]["conditions"]:
        if one["type"] == "AgentRollout":
            one["message"] = condition or f"Agent version 1.290 was not installed on 1 of 4 nodes: {messages[0]}"
    cluster = dataclasses.replace(fleet(4, *leases), dynakubes=(kube,))
    if report:
        full = dataclasses.replace(snapshots.report(problems=[report]), node="node-0000")
        cluster = dataclasses.replace(cluster, reports=(full,))
    return [(problem.sentence, problem.remedy) for problem in status.summarize(cluster).problems]


class TestAVersionThatIsNotInstalled:
    """One problem, with its cause and remedy, however many reports have it."""

    SENTENCE = "DynaKube shop: version 1.290.0.20261001-120000 can't be installed:"

    def test_is_one_problem_of_all_its_nodes(self) -> None:
        ((sentence, remedy),) = failing(MISSING, MISSING)
        assert sentence == f"2 nodes (node-0000, node-0001): {self.SENTENCE} {MISSING}"
        assert remedy.startswith("set codeModulesVersion of the DynaKube to a version that the tenant has")

    def test_is_one_problem_though_its_numbers_differ(self) -> None:
        full = "700 MiB are needed and {} MiB are free (disk budget none, reserve 256 MiB)"
        ((sentence, remedy),) = failing(full.format(5), full.format(6), full.format(6), condition="earlier numbers")
        assert sentence == f"3 nodes (node-0000, node-0001, node-0002): {self.SENTENCE} {full.format(6)}"
        assert remedy.startswith("free space on the disk")

    def test_is_two_problems_for_two_remedies(self) -> None:
        assert len(failing(MISSING, MISSING, "/data: No space left on device")) == 2

    def test_is_not_repeated_from_the_full_report_of_a_node(self) -> None:
        version = "version 1.290.0.20261001-120000"
        assert len(failing(MISSING, report=f"{version} can't be installed: {MISSING}; the provisioner retries")) == 1
        for other in ("only 5 MiB free on the disk", f"pod shop/early runs without its agent ({MISSING})"):
            assert len(failing(MISSING, report=other)) == 2

    def test_has_the_command_for_another_token(self) -> None:
        ((sentence, remedy),) = failing(REFUSED)
        assert sentence.endswith("answered 403: Token is missing")
        assert remedy.startswith("kubectl -n dynatrace patch secret shop --type=merge")

    def test_is_a_consequence_of_a_token_that_the_operator_finds_refused(self) -> None:
        missing = "the Secret shop with the tokens does not exist: create it with the key apiToken"
        for message in (REFUSED, missing):
            ((sentence, _),) = failing(message, Tokens="False")
            assert sentence == "DynaKube shop: Tokens: Tokens is False"

    def test_is_reported_by_the_operators_condition_alone_where_no_node_is_asked(self) -> None:
        ((sentence, remedy),) = failing(condition=f"Agent version 1.290 was not installed on 1 of 4 nodes: {MISSING}")
        assert sentence.startswith("DynaKube shop: AgentRollout: Agent version 1.290 was not installed on 1 of 4 nodes")
        assert remedy.startswith("set codeModulesVersion of the DynaKube")

    def test_is_refused_for_a_signature_with_what_to_sign(self) -> None:
        message = f"registry.example.com/agent@sha256:{'0' * 64} is not signed with a required key: its signature is …"
        leases = [snapshots.lease("node-0000", "refused", message)]
        (problem,) = status.summarize(fleet(4, *leases)).problems
        assert problem.sentence == f"node node-0000: DynaKube shop: its image is refused: {message}"
        assert problem.remedy.startswith("sign the image with one of the required keys")


class TestChoiceOfNodes:
    def test_begins_with_those_that_have_a_problem_and_takes_the_others_from_all(self) -> None:
        cluster = fleet(1000, snapshots.lease("node-0555", "failed", "no space"))
        chosen = NodeChoice(sample=5).choose(cluster)
        assert (len(chosen), "node-0555" in chosen) == (5, True)
        assert len({name[:7] for name in chosen}) >= 4

    def test_takes_all_of_a_small_cluster_and_no_more_than_asked_for(self) -> None:
        assert NodeChoice(sample=20).choose(fleet(3)) == ["node-0000", "node-0001", "node-0002"]
        failing = [snapshots.lease(f"node-{one:04}", "failed") for one in range(50)]
        assert len(NodeChoice(sample=20).choose(fleet(100, *failing))) == 20
        assert NodeChoice().choose(fleet(3)) == []

    def test_by_name_takes_these(self) -> None:
        choice = NodeChoice(("node-0001", "gone"), sample=20)
        assert (choice.choose(fleet(3)), choice.unknown(fleet(3))) == (["node-0001"], ["gone"])
