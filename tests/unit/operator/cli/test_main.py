"""`kubectl oneagent` from its command line to its exit code, with a program in kubectl's place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oneagent.operator.cli import arguments, main
from tests.fakes.kubectl import FakeCluster
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NAMESPACE, NODE

TOKEN = "dt0c01.PUBLICPART.ABCDEFGHIJKLMNOP"
INIT = {"initContainers": [{"name": "install-oneagent"}]}
VERDICT = {"verdict": {"reason": "Monitored", "sentence": "pod shop/cart is monitored", "remedy": ""}}


def secret(name: str, namespace: str = NAMESPACE, **data: str) -> dict[str, Any]:
    return snapshots.obj("Secret", name, namespace, data=data)


def own_secrets() -> list[dict[str, Any]]:
    return [secret("shop", apiToken=TOKEN), secret("oneagent-webhook-certs"), secret("oneagent-webhook-ca")]


def cart(**annotations: str) -> dict[str, Any]:
    volume = {"name": "oneagent-bin", "csi": {"driver": "csi.oneagent.dynatrace.com"}}
    status = {"initContainerStatuses": [{"name": "install-oneagent", "state": {"terminated": {"exitCode": 0}}}]}
    return snapshots.pod("cart", "shop", spec={**INIT, "volumes": [volume]}, status=status, annotations=annotations)


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    """A healthy cluster."""
    fake_cluster = FakeCluster(tmp_path)
    fake_cluster.set_objects(*snapshots.objects(snapshots.healthy()), cart(), *own_secrets())
    fake_cluster.set_exec_output(DRIVER_POD, snapshots.status_json())
    return fake_cluster


@pytest.fixture
def run(fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["kubectl-oneagent", *arguments, f"--kubectl={fake_cluster.program}"])
        assert main.main() == code
        return capsys.readouterr().out

    return run


def test_status_prints_nodes_as_table_and_json_and_runs_no_command_in_any(run: Any, fake_cluster: FakeCluster) -> None:
    assert NODE in run("status", "-o", "wide", code=0)
    (row,) = json.loads(run("status", "-o", "json", code=0))["nodes"]
    assert (row["driver"], row["registered"], row["views"]) == ("ready", True, None)
    assert not [call for call in fake_cluster.calls if "exec" in call]


def test_status_of_a_node_has_its_full_report(run: Any, fake_cluster: FakeCluster) -> None:
    (row,) = json.loads(run("status", f"--node={NODE}", "-o", "json", code=0))["nodes"]
    assert (row["views"], row["failures"]) == (1, 0)
    assert len([call for call in fake_cluster.calls if "exec" in call]) == 1


def test_a_node_without_a_driver_cannot_be_asked_for(run: Any, fake_cluster: FakeCluster) -> None:
    assert "there is no node gone" in run("status", "--node=gone", code=1)
    nodes = (snapshots.node(), snapshots.node("bare"))
    fake_cluster.set_objects(*snapshots.objects(snapshots.but(nodes=nodes)))
    assert "node bare has no pod of the driver" in run("status", "--node=bare", code=1)


def test_doctor_and_archive_ask_a_sample_of_nodes(run: Any, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    names = [f"node-{one}" for one in range(30)]
    pods = [snapshots.pod(f"driver-{name}", component="csi-driver", node=name) for name in names]
    leases = [snapshots.lease(name) for name in names]
    cluster = snapshots.but(
        nodes=tuple(map(snapshots.node, names)), pods=tuple(pods), node_leases=tuple(leases), reports=()
    )
    fake_cluster.set_objects(*snapshots.objects(cluster))
    run("doctor", code=1)
    assert len([call for call in fake_cluster.calls if "exec" in call]) == arguments.SAMPLE
    target = tmp_path / "support.tar.gz"
    run("support-archive", f"--file={target}", "--node=node-7", code=1)
    members = archived(target)
    assert [name for name in members if name.startswith("nodes/")] == ["nodes/node-7/status.json"]
    assert {name.split("/")[1] for name in members if name.startswith("logs/driver-")} <= {"driver-node-7"}
    assert ("driver-node-7" in members["objects/pods.yaml"], "driver-node-8" in members["objects/pods.yaml"]) == (
        True,
        False,
    )
    assert len(json.loads(members["nodes.json"])) == 30


def test_an_archive_has_no_more_than_it_may_and_says_what_it_lacks(
    run: Any, fake_cluster: FakeCluster, tmp_path: Path
) -> None:
    fake_cluster.set_log(DRIVER_POD, "server", "x" * 200_000)
    fake_cluster.set_log("oneagent-webhook-y", "server", "y" * 200_000)
    target = tmp_path / "support.tar.gz"
    run("support-archive", f"--file={target}", "--max-bytes=100Ki", code=1)
    members = archived(target)
    assert sum(map(len, members.values())) < 400_000
    assert "left out, the archive has its 102400 bytes" in members["problems.txt"]


def test_the_doctor_is_content_but_for_a_certificate_that_it_can_not_see(run: Any) -> None:
    found = json.loads(run("doctor", "-o", "json", code=1))
    assert [finding["check"] for finding in found["findings"]] == ["Certificate"]
    assert found["nodes"] == 1


def test_what_may_not_be_read_is_a_finding(run: Any, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("nodes", "secrets")
    found = json.loads(run("doctor", "-o", "json", code=1))
    unread = [finding["sentence"] for finding in found["findings"] if finding["check"] == "Unread"]
    assert len(unread) == 3
    assert not {"Tokens", "NodesWithoutDriver"} & set(found["checks"])


def test_why_runs_the_drivers_diagnosis_on_the_pods_node(run: Any, fake_cluster: FakeCluster) -> None:
    fake_cluster.set_exec_output(DRIVER_POD, VERDICT)
    assert json.loads(run("why", "shop/cart", "-o", "json", code=0))["verdict"]["reason"] == "Monitored"
    assert run("why", "shop/cart", code=0).startswith("Pod shop/cart is monitored, on node worker-1.\n")
    assert [
        "exec",
        "-n",
        NAMESPACE,
        DRIVER_POD,
        "-c",
        "server",
        "--",
        "oneagent-csi",
        "why",
        "shop/cart",
        "-o",
        "json",
    ] in (fake_cluster.calls)


def test_events_that_differ_in_numbers_only_are_one(run: Any, fake_cluster: FakeCluster) -> None:
    events = [
        snapshots.obj(
            "Event", f"cart.{number}", "shop", type="Warning", reason="FailedMount",
            involvedObject={"name": "cart"}, lastTimestamp=f"2026-01-01T00:00:0{number}Z",
            message=f"MountVolume.SetUp failed: attempt {number} of 10: version 1.290 is not in the store yet",
        )
        for number in range(8)
    ]  # fmt: skip
    fake_cluster.set_objects(*snapshots.objects(snapshots.healthy()), cart(), *events)
    fake_cluster.set_exec_output(DRIVER_POD, VERDICT)
    (event,) = json.loads(run("why", "shop/cart", "-o", "json", code=0))["events"]
    assert (event["count"], event["message"][:35]) == (8, "MountVolume.SetUp failed: attempt 7")
    assert "FailedMount (8 times): MountVolume" in run("why", "shop/cart", code=0)


def test_why_does_not_report_the_unreadable_as_missing(run: Any, fake_cluster: FakeCluster) -> None:
    """A user who may read only pods of their own namespace gets no wrong diagnosis."""
    fake_cluster.set_objects(
        *snapshots.objects(snapshots.healthy()), cart(), snapshots.pod("plain", "other"), snapshots.namespace("other")
    )
    fake_cluster.forbid("pods", "dynakubes")
    found = json.loads(run("why", "shop/cart", "-o", "json", code=3))["verdict"]
    assert found["reason"] == "NodeUnreachable"
    assert "Forbidden" in found["sentence"]
    assert "list the pods of the driver" in found["remedy"]
    found = json.loads(run("why", "other/plain", "-o", "json", code=1))["verdict"]
    assert found["reason"] == "NamespaceNotMonitored"
    assert "DynaKubes can't be read" in found["sentence"]


def test_where_nothing_is_installed_that_is_all_that_is_said(run: Any, fake_cluster: FakeCluster) -> None:
    """Also where the cluster does not know what a DynaKube is."""
    fake_cluster.set_objects(snapshots.namespace("shop"), snapshots.node(), snapshots.pod("cart", "shop"))
    fake_cluster.forget("dynakubes", "opentelemetryinjections")
    found = json.loads(run("status", "-o", "json", code=1))
    assert (found["installation"], found["unread"]) == ("not installed", [])
    assert [problem["check"] for problem in found["problems"]] == ["Installation"]
    found = json.loads(run("doctor", "-o", "json", code=1))
    assert [finding["check"] for finding in found["findings"]] == ["Installation"]
    verdict = json.loads(run("why", "shop/cart", "-o", "json", code=1))["verdict"]
    assert verdict["reason"] == "NotInstalled"
    assert "the namespace dynatrace has no Deployment oneagent-webhook" in verdict["sentence"]


def test_why_reports_a_missing_pod(run: Any) -> None:
    assert "there is no pod shop/nobody" in run("why", "shop/nobody", code=1).lower()


def test_values_of_secrets_are_never_requested(run: Any, fake_cluster: FakeCluster) -> None:
    run("doctor", code=1)
    calls = [call for call in fake_cluster.calls if "secrets" in call]
    assert len(calls) == 2
    for call in calls:
        template = call[call.index("-o") + 1]
        assert "$value}}" not in template.replace("$key, $value := .data", "")
        assert template.startswith("go-template=")


def test_the_users_context_is_handed_to_every_call(run: Any, fake_cluster: FakeCluster) -> None:
    run("status", "--context=prod", "--kubeconfig=/k", "--as=me", "--operator-namespace", "elsewhere", code=1)
    assert fake_cluster.calls
    for call in fake_cluster.calls:
        assert call[:3] == ["--context=prod", "--kubeconfig=/k", "--as=me"]
    assert any(call[call.index("-n") + 1] == "elsewhere" for call in fake_cluster.calls if "-n" in call)


def test_a_cluster_that_can_not_be_asked_at_all_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl-oneagent", "doctor", "--kubectl=/nowhere/kubectl"])
    assert main.main() == 2
    assert "name it with --kubectl" in capsys.readouterr().err


def test_a_cluster_of_which_nothing_can_be_read_is_none_that_is_well(run: Any, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid(
        *("nodes", "csinodes", "pods", "dynakubes", "csidrivers", "daemonsets", "leases", "deployments", "secrets"),
        *(
            "namespaces",
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
            "customresourcedefinitions",
        ),
    )
    run("status", code=2)


@pytest.mark.parametrize("pod", ["shop/", "/cart", "a/b/c", "shop/-x", "--x/y", "Shop/cart"])
def test_what_is_no_pod_is_refused(pod: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        arguments.make_parser().parse_args(["why", pod])
    assert stopped.value.code == 2


def archived(target: Path) -> dict[str, str]:
    with tarfile.open(target) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def test_an_archive_has_logs_objects_and_answers_and_no_token(
    run: Any, fake_cluster: FakeCluster, tmp_path: Path
) -> None:
    restarted = snapshots.pod(
        "oneagent-webhook-y",
        component="webhook",
        status={"containerStatuses": [{"name": "server", "restartCount": 1, "state": {}}]},
    )
    cluster = snapshots.but(pods=(snapshots.pod(DRIVER_POD, component="csi-driver"), restarted))
    config = snapshots.obj("ConfigMap", "trusted", NAMESPACE, data={"certs": TOKEN})
    fake_cluster.set_objects(*snapshots.objects(cluster), cart(note=TOKEN), config, *own_secrets())
    fake_cluster.set_exec_output(
        DRIVER_POD,
        snapshots.status_json(problems=[f"refused {TOKEN}"], failures=[{"namespace": "shop", "pod": "cart"}]),
    )
    fake_cluster.set_log(DRIVER_POD, "server", f'{{"msg": "asked with Api-Token {TOKEN}"}}\n')
    fake_cluster.set_log("oneagent-webhook-y", "server", "x" * 5000 + "the end")
    fake_cluster.set_log("oneagent-webhook-y", "server.previous", "what was before")
    target = tmp_path / "support.tar.gz"
    summary = json.loads(run("support-archive", f"--file={target}", "--log-bytes=1Ki", "-o", "json", code=0))
    assert summary["file"] == str(target)
    assert target.stat().st_mode & 0o077 == 0
    members = archived(target)
    assert set(summary["members"]) == members.keys()
    assert "asked with Api-Token ***" in members[f"logs/{DRIVER_POD}/server.log"]
    assert len(members["logs/oneagent-webhook-y/server.log"]) == 1024
    assert members["logs/oneagent-webhook-y/server.log"].endswith("the end")
    assert members["logs/oneagent-webhook-y/server.previous.log"] == "what was before"
    assert json.loads(members["secrets.json"])["shop"] == ["apiToken"]
    assert "certs" in members["objects/configmaps.yaml"]
    assert "why/shop/cart.json" in members
    page = members["report.html"]
    assert "of 1 nodes ready" in page
    assert "Certificate" in page
    assert not re.search(r"(?:src|href|url)\s*[=(]|https?://(?!tenant)", page), "it loads nothing from elsewhere"
    for name, content in members.items():
        assert "ABCDEFGHIJKLMNOP" not in content, name


def test_what_a_node_calls_a_pod_becomes_neither_a_flag_nor_a_path(
    run: Any, fake_cluster: FakeCluster, tmp_path: Path
) -> None:
    failures = [
        {"namespace": "shop", "pod": "--server=https://elsewhere.example"},
        {"namespace": "--token=x", "pod": "cart"},
        {"namespace": "../..", "pod": "cart"},
        {"namespace": "shop", "pod": "cart"},
    ]
    fake_cluster.set_exec_output(DRIVER_POD, snapshots.status_json(failures=failures))
    target = tmp_path / "support.tar.gz"
    run("support-archive", f"--file={target}", code=1)
    assert [name for name in archived(target) if name.startswith("why/")] == ["why/shop/cart.json"]
    assert not [call for call in fake_cluster.calls if {"--server=https://elsewhere.example", "--token=x"} & set(call)]


def test_an_archive_names_what_it_lacks(run: Any, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    fake_cluster.forbid("services")
    target = tmp_path / "support.tar.gz"
    assert "parts missing" in run("support-archive", f"--file={target}", code=1)
    problems = archived(target)["problems.txt"]
    assert "services is forbidden" in problems
    assert "is waiting to start" in problems


def test_an_archive_that_can_not_be_written_leaves_nothing_behind(
    fake_cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    target = f"--file={tmp_path}/nowhere/support.tar.gz"
    monkeypatch.setattr(
        sys, "argv", ["kubectl-oneagent", "support-archive", target, f"--kubectl={fake_cluster.program}"]
    )
    assert main.main() == 2
    assert "can't be written: No such file or directory" in capsys.readouterr().err
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"calls"}


def test_json_keeps_the_fields_of_a_newer_driver(run: Any, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    output = snapshots.status_json(new=1, failures=[{"namespace": "shop", "pod": "cart", "new": 2}])
    fake_cluster.set_exec_output(DRIVER_POD, output)
    (report,) = json.loads(run("status", f"--node={NODE}", "-o", "json", code=0))["reports"]
    assert report["status"] == output
    run("support-archive", f"--file={tmp_path / 'support.tar.gz'}", code=1)
    assert json.loads(archived(tmp_path / "support.tar.gz")[f"nodes/{NODE}/status.json"])["status"] == output
    diagnosis = VERDICT | {"processes": [{"pid": 7, "command": "java", "mapped": True, "new": 3}], "new": {"deeper": 4}}
    fake_cluster.set_exec_output(DRIVER_POD, diagnosis)
    assert json.loads(run("why", "shop/cart", "-o", "json", code=0))["on_node"] == diagnosis


def test_why_loads_no_rich() -> None:
    modules = ["main", "why", "why.collect", "why.diagnose", "why.text"]
    program = f"import sys, {', '.join(f'oneagent.operator.cli.{module}' for module in modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"kubernetes", "rich", "yaml"} & set(loaded.stdout.split())


def test_help_loads_neither_a_client_of_kubernetes_nor_grpc_nor_rich() -> None:
    program = "import sys, oneagent.operator.cli.main as c; c.arguments.make_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"kubernetes", "grpc", "aiohttp", "rich", "yaml", "msgspec"} & set(loaded.stdout.split())
