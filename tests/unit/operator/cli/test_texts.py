"""What `kubectl oneagent` prints, at three widths, as text files in `texts/`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Final

import pytest

from oneagent.common import node_report
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.node_report import Diagnosis
from oneagent.common.terminal import Screen
from oneagent.operator.cli import arguments, completion, main, output, status, versions
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.tls_check import ServedCertificate
from oneagent.operator.cli.why import Decision, Event, Evidence, NamespaceOwner, diagnose, text, workload
from oneagent.operator.cli.why.workload import TargetDiagnosis
from tests.unit import expected_texts
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import NODE, NOW, but

TEXTS: Final = Path(__file__).parent / "texts"
LONG: Final = "gke-production-europe-west3-pool-with-large-nodes-7d9f6c4b-x2k9"
"""A name as clouds give them to nodes."""


ENDED: Final = {
    "exitCode": 2,
    "reason": "Error",
    "message": "usage: oneagent-csi-provisioner [--data-dir DIR]\noneagent-csi-provisioner: error: no flag --data",
}


def scaled_to_0(name: str) -> snapshots.Object:
    deployment = snapshots.workload("Deployment", name)
    deployment["spec"]["replicas"], deployment["status"]["readyReplicas"] = 0, 0
    return deployment


def crashing_driver() -> snapshots.Object:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    names = ("server", "registrar", "livenessprobe")
    statuses: list[snapshots.Object] = [
        *({"name": name, "ready": True} for name in names),
        {"name": "provisioner", "state": waiting, "lastState": {"terminated": ENDED}},
    ]
    spec = {"containers": [{"name": one["name"]} for one in statuses]}
    status = {"conditions": [], "containerStatuses": statuses}
    return snapshots.pod(snapshots.DRIVER_POD, component="csi-driver", status=status, spec=spec)


def broken() -> ClusterSnapshot:
    return but(
        deployments=(snapshots.workload("Deployment", "oneagent-operator"), scaled_to_0("oneagent-webhook")),
        pods=(crashing_driver(),),
        secrets={},
        namespaces=(snapshots.namespace("dynatrace"), snapshots.namespace("shop", team="shop")),
        reports=(),
    )


def removed(**left: object) -> ClusterSnapshot:
    nothing = {"mutating": None, "validating": None, "csi_driver": None, "definition": None, "dynakubes": ()}
    gone = {"csi_nodes": (), "deployments": (), "daemon_sets": (), "pods": (), "node_leases": (), "reports": ()}
    namespaces = (snapshots.namespace("shop", team="shop"),)
    return but(**{**nothing, **gone, "secrets": {}, "namespaces": namespaces, **left})


def half_removed() -> ClusterSnapshot:
    """As `helm uninstall` leaves it before its DynaKubes were deleted."""
    kube = snapshots.dynakube()
    kube["metadata"] |= {"finalizers": ["oneagent.dynatrace.com/cleanup"]}
    return removed(definition=snapshots.definition(), dynakubes=(kube,), namespaces=(snapshots.owned(),))


def stuck() -> ClusterSnapshot:
    kube = snapshots.dynakube()
    kube["metadata"] |= {"deletionTimestamp": "2023-11-14T20:00:00Z", "finalizers": ["oneagent.dynatrace.com/cleanup"]}
    namespaces = (snapshots.namespace("shop", **{namespace_mapping.LABEL: "shop"}),)
    return removed(definition=snapshots.definition(), dynakubes=(kube,), namespaces=namespaces)


def fleet() -> ClusterSnapshot:
    """300 nodes, of which 30 can't install the version, and one has no driver."""
    names = [f"{LONG}-{number:03}" for number in range(300)]
    missing = (
        "https://abc12345.live.example.com/api/v1/deployment/installer/agent/unix/paas/version/"
        "1.290.0.20261001-120000: answered 404: HTTP 404 Not Found"
    )
    leases = [
        snapshots.lease(name, *(("failed", missing) if number < 30 else ("ready", "")))
        for number, name in enumerate(names)
    ]
    pods = [snapshots.pod(f"driver-{name}", component="csi-driver", node=name) for name in names[:-1]]
    daemon_set = snapshots.workload("DaemonSet", "oneagent-csi-driver")
    daemon_set["status"] = {"desiredNumberScheduled": 300, "numberReady": 299}
    return but(
        nodes=tuple(map(snapshots.node, names)),
        csi_nodes=tuple(map(snapshots.csi_node, names)),
        daemon_sets=(daemon_set,),
        pods=tuple(pods),
        # The operator's condition repeats what the nodes report.
        dynakubes=(snapshots.dynakube(Ready="False", AgentRollout="False"),),
        node_leases=tuple(leases),
        reports=(),
    )


CLUSTERS: Final = {
    "healthy": snapshots.healthy,
    "broken": broken,
    "not-installed": removed,
    "half-removed": half_removed,
    "stuck": stuck,
    "fleet": fleet,
    "forbidden": lambda: but(secrets={}, unread={"secrets": "Error from server (Forbidden): secrets is forbidden"}),
}


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("scene", CLUSTERS)
def test_status(scene: str, width: int) -> None:
    found = status.summarize(CLUSTERS[scene]())
    shown = "".join(f"{line}\n" for line in output.status_lines(found, Screen(width)))
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"status-{scene}", width, shown)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
def test_wide_status(width: int) -> None:
    named = but(
        nodes=(snapshots.node(), snapshots.node(LONG)),
        csi_nodes=(snapshots.csi_node(), snapshots.csi_node(LONG)),
        dynakubes=(snapshots.dynakube(Ready="False"),),
        daemon_sets=fleet().daemon_sets,
    )
    shown = "".join(f"{line}\n" for line in output.status_lines(status.summarize(named), Screen(width), is_wide=True))
    assert LONG in shown
    expected_texts.check(TEXTS, "status-wide", width, shown)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("scene", ["healthy", "broken", "not-installed", "half-removed", "stuck", "forbidden"])
def test_doctor(scene: str, width: int) -> None:
    cluster = CLUSTERS[scene]()
    if scene == "broken":
        served = ServedCertificate("oneagent-webhook-y", NOW - 90, NOW + 10)
        cluster = dataclasses.replace(cluster, served=(served,))
    shown = "".join(f"{line}\n" for line in output.doctor_lines(checks.run_checks(cluster), Screen(width)))
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"doctor-{scene}", width, shown)


MONITORED: Final = Evidence(
    namespace="shop",
    pod="cart-6d5f9c7b8-x2k9q",
    taken_at=1.0,
    exists=True,
    phase="Running",
    node=NODE,
    decision=Decision(True, "", ()),
    by_driver=True,
    owner=NamespaceOwner("shop", "shop", ("shop",), 1),
    driver=snapshots.DRIVER_POD,
    on_node=node_report.pod_from_json(
        {
            "verdict": {"reason": "Monitored", "sentence": "pod shop/cart-6d5f9c7b8-x2k9q is monitored", "remedy": ""},
            "volume": {"state": "mounted", "dynakube": "shop", "version": "1.290.0.20261001-120000"},
            "processes": [{"pid": 7, "command": "java", "mapped": True}],
        }
    ),
)
OPTED_OUT: Final = dataclasses.replace(
    MONITORED,
    pod="cart-6d5f9c7b8-b7v4m",
    decision=Decision(False, "OptedOut", ('dynatrace.com/inject: "false"',)),
    on_node=None,
    events=(Event("cart-6d5f9c7b8-b7v4m", "FailedMount", "MountVolume.SetUp failed: attempt 8 of 10", 8),),
)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("pods", [(MONITORED,), (OPTED_OUT, MONITORED)], ids=["pod", "workload"])
def test_why(pods: tuple[Evidence, ...], width: int) -> None:
    found = tuple((evidence, diagnose.diagnose(evidence)) for evidence in pods)
    named = "deployment/cart" if len(pods) > 1 else ""
    shown = "".join(f"{line}\n" for line in text.render_result(TargetDiagnosis(named, "shop", found), Screen(width)))
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"why-{'workload' if named else 'pod'}", width, shown)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
def test_version(width: int) -> None:
    found = versions.Versions("0.1.0", "0.1.0", "", {"0.1.0": 299, "0.0.9": 1}, "v1.35.0", ())
    expected_texts.check(TEXTS, "version", width, "".join(f"{line}\n" for line in versions.lines(found, Screen(width))))


@expected_texts.of_this_argparse
@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("command", ["", *completion.subcommands(arguments.make_parser())])
def test_help(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    parser = arguments.make_parser()
    shown = (completion.subcommands(parser)[command] if command else parser).format_help()
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"help-{command or 'all'}", width, shown)


def test_the_worst_pod_of_a_workload_decides() -> None:
    assert workload._badness(Diagnosis("Monitored", "", "")) < workload._badness(Diagnosis("NodeUnreachable", "", ""))
    assert workload._badness(Diagnosis("NodeUnreachable", "", "")) < workload._badness(Diagnosis("OptedOut", "", ""))


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
def test_errors_are_one_line(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = ""
    for words in (
        ["status", "--kubectl=/nowhere"],
        ["status", "-n", "shop"],
        ["why"],
        ["why", "a/b/c"],
    ):
        monkeypatch.setattr("sys.argv", ["kubectl-oneagent", *words])
        with contextlib.suppress(SystemExit):
            main.main()
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        shown += f"$ kubectl oneagent {' '.join(words)}\n{error}"
    expected_texts.check(TEXTS, "errors", width, shown)
