"""`kubectl oneagent` from its command line to its exit code, with a program in kubectl's place."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oneagent.operator.cli import main
from tests.fakes.kubectl import FakeCluster
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NAMESPACE, NODE

TOKEN = "dt0c01.PUBLICPART.ABCDEFGHIJKLMNOP"
INIT = {"initContainers": [{"name": "install-oneagent"}]}
VERDICT = {"verdict": {"reason": "Monitored", "sentence": "pod shop/cart is monitored", "remedy": ""}}


def secret(name: str, namespace: str = NAMESPACE, **data: str) -> dict[str, Any]:
    return snapshots.obj("Secret", name, namespace, data=data)


def cart(**annotations: str) -> dict[str, Any]:
    volume = {"name": "oneagent-bin", "csi": {"driver": "csi.oneagent.dynatrace.com"}}
    status = {"initContainerStatuses": [{"name": "install-oneagent", "state": {"terminated": {"exitCode": 0}}}]}
    return snapshots.pod("cart", "shop", spec={**INIT, "volumes": [volume]}, status=status, annotations=annotations)


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    """A healthy cluster."""
    fake_cluster = FakeCluster(tmp_path)
    fake_cluster.set_objects(*snapshots.objects(snapshots.healthy()), cart(), secret("shop", apiToken=TOKEN))
    fake_cluster.set_exec_output(DRIVER_POD, snapshots.status_json())
    return fake_cluster


@pytest.fixture
def run(fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["kubectl-oneagent", *arguments, f"--kubectl={fake_cluster.program}"])
        assert main.main() == code
        return capsys.readouterr().out

    return run


def test_status_prints_nodes_as_table_and_json(run: Any) -> None:
    assert NODE in run("status", code=0)
    (row,) = json.loads(run("status", "-o", "json", code=0))["nodes"]
    assert (row["driver"], row["registered"], row["views"]) == ("ready", True, 1)


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


def test_why_does_not_report_the_unreadable_as_missing(run: Any, fake_cluster: FakeCluster) -> None:
    """A user who may read only pods of their own namespace gets no wrong diagnosis."""
    fake_cluster.set_objects(
        *snapshots.objects(snapshots.healthy()), cart(), snapshots.pod("plain", "other"), snapshots.namespace("other")
    )
    fake_cluster.forbid("pods", "dynakubes")
    found = json.loads(run("why", "shop/cart", "-o", "json", code=1))["verdict"]
    assert found["reason"] == "NodeUnreachable"
    assert "Forbidden" in found["sentence"]
    assert "list the pods of the driver" in found["remedy"]
    found = json.loads(run("why", "other/plain", "-o", "json", code=1))["verdict"]
    assert found["reason"] == "NamespaceNotMonitored"
    assert "DynaKubes can't be read" in found["sentence"]


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
    run("status", "--context=prod", "--kubeconfig=/k", "--as=me", "-n", "elsewhere", code=1)
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
    fake_cluster.forbid("nodes", "csinodes", "pods", "dynakubes", "csidrivers", "daemonsets")
    run("status", code=2)


@pytest.mark.parametrize("pod", ["cart", "shop/", "/cart", "a/b/c", "shop/-x", "--x/y", "Shop/cart"])
def test_what_is_no_pod_is_refused(pod: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.make_parser().parse_args(["why", pod])
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
    fake_cluster.set_objects(*snapshots.objects(cluster), cart(note=TOKEN), config, secret("shop", apiToken=TOKEN))
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
    assert json.loads(members["secrets.json"]) == {"shop": ["apiToken"]}
    assert "certs" in members["objects/configmaps.yaml"]
    assert "why/shop/cart.json" in members
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
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"calls.jsonl"}


def test_json_keeps_the_fields_of_a_newer_driver(run: Any, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    output = snapshots.status_json(new=1, failures=[{"namespace": "shop", "pod": "cart", "new": 2}])
    fake_cluster.set_exec_output(DRIVER_POD, output)
    (report,) = json.loads(run("status", "-o", "json", code=0))["reports"]
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
    program = "import sys, oneagent.operator.cli.main as c; c.make_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"kubernetes", "grpc", "aiohttp", "rich", "yaml", "msgspec"} & set(loaded.stdout.split())
