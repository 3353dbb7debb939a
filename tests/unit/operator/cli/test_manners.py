"""`kubectl oneagent` behaves like kubectl: where flags stand, what names a pod, and how errors look."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.operator.cli import completion, locate, main, output
from oneagent.operator.cli.kubectl import Kubectl
from tests.fakes.kubectl import FakeCluster
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NAMESPACE

MONITORED = {"verdict": {"reason": "Monitored", "sentence": "pod is monitored", "remedy": ""}}
VOLUME = {"name": "oneagent-bin", "csi": {"driver": "csi.oneagent.dynatrace.com"}}


def pod(name: str, **annotations: str) -> dict[str, Any]:
    found = snapshots.pod(name, "shop", spec={"volumes": [VOLUME]}, annotations=annotations)
    found["metadata"]["labels"] = {"app": "cart"}
    return found


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    fake_cluster = FakeCluster(tmp_path)
    secrets = (snapshots.obj("Secret", name, NAMESPACE, data=dict.fromkeys(keys)) for name, keys in SECRETS)
    deployment = snapshots.obj(
        "Deployment", "cart", "shop", spec={"selector": {"matchLabels": {"app": "cart"}}}, metadata={"uid": "1"}
    )
    opted_out = pod(
        "cart-b", **{"oneagent.dynatrace.com/injected": "false", "oneagent.dynatrace.com/reason": "OptedOut"}
    )
    objects = (*snapshots.objects(snapshots.healthy()), *secrets, deployment, pod("cart-a"), opted_out)
    fake_cluster.set_objects(*objects)
    fake_cluster.set_exec_output(DRIVER_POD, MONITORED)
    return fake_cluster


SECRETS = snapshots.SECRET.items()


@pytest.fixture
def run(fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("ONEAGENT_KUBECTL", str(fake_cluster.program))

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["kubectl-oneagent", *arguments])
        try:
            assert main.main() == code
        except SystemExit as stopped:
            assert stopped.code == code
        return capsys.readouterr().out

    return run


class TestTheCommandLine:
    @pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
    def test_shows_its_help_without_a_command(self, run: Any, arguments: tuple[str, ...]) -> None:
        assert "support-archive" in run(*arguments)

    def test_shows_the_help_of_a_command(self, run: Any) -> None:
        assert "--problems" in run("help", "status")
        run("help", "nothing", code=2)

    @pytest.mark.parametrize("arguments", [("-o", "json", "status"), ("status", "-o", "json")])
    def test_takes_flags_before_and_after_the_command(self, run: Any, arguments: tuple[str, ...]) -> None:
        assert json.loads(run(*arguments))["installation"] == "installed"

    def test_prints_yaml(self, run: Any) -> None:
        text, plain = yaml.safe_load(run("status", "-o", "yaml")), json.loads(run("status", "-o", "json"))
        assert text.pop("taken_at") <= plain.pop("taken_at")
        assert text == plain

    def test_refuses_a_namespace_where_it_has_no_meaning(self, run: Any) -> None:
        found = json.loads(run("status", "-n", "shop", "-o", "json", code=2))
        assert "--operator-namespace" in found["error"]["message"]

    def test_refuses_wide_where_nothing_is(self, run: Any) -> None:
        run("-o", "wide", "doctor", code=2)

    def test_prints_versions(self, run: Any) -> None:
        assert run("--version").startswith("kubectl-oneagent ")
        found = json.loads(run("version", "-o", "json"))
        assert (found["operator"], found["webhook"], found["kubernetes"]) == ("0.1.0", "0.1.0", "v1.35.0")
        assert "drivers" in run("version")

    def test_errors_of_the_cluster_are_json_if_that_is_asked_for(self, run: Any) -> None:
        found = json.loads(run("status", "--kubectl=/nowhere/kubectl", "-o", "json", code=2))
        assert found["error"]["reason"] == "NoAccess"

    def test_a_reader_that_has_seen_enough_is_no_error(self, fake_cluster: FakeCluster) -> None:
        command = (
            f"{sys.executable} -m oneagent.operator.cli.main status -o json --kubectl={fake_cluster.program} | true"
        )
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.stderr == ""


class TestAPod:
    @pytest.mark.parametrize("arguments", [("cart-a", "-n", "shop"), ("pod/cart-a", "-n", "shop"), ("shop/cart-a",)])
    def test_is_named_as_in_kubectl(self, run: Any, arguments: tuple[str, ...]) -> None:
        assert json.loads(run("why", *arguments, "-o", "json"))["verdict"]["reason"] == "Monitored"

    def test_is_in_the_namespace_of_the_context(self, run: Any) -> None:
        assert json.loads(run("why", "cart-a", "-o", "json"))["namespace"] == "shop"

    def test_of_a_workload_is_diagnosed_with_all_others_the_worst_first(self, run: Any) -> None:
        found = json.loads(run("why", "deploy/cart", "-n", "shop", "-o", "json", code=1))
        assert [one["verdict"]["reason"] for one in found["pods"]] == ["OptedOut", "Monitored"]
        assert "cart-b   OptedOut" in run("why", "deploy/cart", code=1)

    @pytest.mark.parametrize("workload", ["deploy/gone", "sts/cart"])
    def test_of_a_workload_that_does_not_exist_is_none(self, run: Any, workload: str) -> None:
        assert "There is no" in run("why", workload, code=1)

    def test_of_a_workload_that_has_none_is_diagnosed_by_what_keeps_it_from_having_one(
        self, run: Any, fake_cluster: FakeCluster
    ) -> None:
        spec = {"selector": {"matchLabels": {"app": "other"}}, "replicas": 3}
        failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "other-1" is forbidden: exceeded quota'}
        deployment = snapshots.obj("Deployment", "other", "shop", spec=spec, status={"conditions": [failure]})
        scaled = snapshots.obj("StatefulSet", "db", "shop", spec=spec | {"replicas": 0})
        fake_cluster.set_objects(*snapshots.objects(snapshots.healthy()), deployment, scaled)
        verdict = json.loads(run("why", "deploy/other", "-n", "shop", "-o", "json", code=1))["pods"][0]["verdict"]
        assert verdict["sentence"].endswith('has no pods: pods "other-1" is forbidden: exceeded quota')
        assert verdict["remedy"] == "kubectl -n shop describe deployment other"
        assert "it is scaled to 0" in run("why", "sts/db", "-n", "shop", code=1)

    def test_that_may_not_be_read_has_an_exit_code_of_its_own(self, run: Any, fake_cluster: FakeCluster) -> None:
        fake_cluster.forbid("pod")
        run("why", "cart-a", code=3)


class TestTheNamespace:
    def test_is_that_of_the_webhooks_configuration(self, fake_cluster: FakeCluster) -> None:
        hooks = snapshots.hooks("Mutating")
        hooks["webhooks"][0]["clientConfig"]["service"] = {"namespace": "elsewhere"}
        fake_cluster.set_objects(hooks)
        assert self.find(fake_cluster) == "elsewhere"

    def test_is_that_of_an_operator_or_a_dynakube_without_one(self, fake_cluster: FakeCluster) -> None:
        operator = snapshots.obj("Deployment", "oneagent-operator", "ops")
        kube = snapshots.obj("DynaKube", "shop", "kubes")
        fake_cluster.set_objects(operator, kube)
        assert self.find(fake_cluster) == "ops"
        fake_cluster.forbid("deployments", "mutatingwebhookconfigurations")
        assert self.find(fake_cluster) == "kubes"
        fake_cluster.set_objects()
        assert self.find(fake_cluster) == "dynatrace"

    def find(self, fake_cluster: FakeCluster) -> str:
        return locate.with_namespace(Kubectl(str(fake_cluster.program), (), "", 10.0)).namespace


class TestCompletion:
    def candidates(self, run: Any, *words: str) -> list[str]:
        return str(run("__complete", *words)).splitlines()

    def test_has_commands_flags_and_values(self, run: Any) -> None:
        assert self.candidates(run, "st") == ["status", ":4"]
        assert self.candidates(run, "status", "--pro") == ["--problems", ":4"]
        assert self.candidates(run, "status", "-o", "") == ["wide", "json", "yaml", ":4"]
        assert self.candidates(run, "support-archive", "--file", "") == [":0"]
        assert self.candidates(run, "completion", "") == ["bash", "zsh", "fish", ":4"]

    def test_has_pods_and_nodes_by_the_users_kubectl(self, run: Any, tmp_path: Path) -> None:
        program = tmp_path / "names"
        program.write_text('#!/bin/sh\necho "node/one"\necho "node/two"\n')
        program.chmod(0o755)
        assert self.candidates(run, "status", f"--kubectl={program}", "--node", "o") == ["one", ":4"]
        program.write_text('#!/bin/sh\necho "pod/cart-a"\necho "pod/shop"\n')
        assert self.candidates(run, f"--kubectl={program}", "why", "c") == ["cart-a", ":4"]
        assert self.candidates(run, "why", "--kubectl=/nowhere", "c") == [":4"]

    @pytest.mark.parametrize("shell", completion.SHELLS)
    def test_scripts_are_of_their_shells_language(self, run: Any, shell: str) -> None:
        script = run("completion", shell)
        assert "__complete" in script
        if program := shutil.which(shell):
            subprocess.run([program, "-n", "/dev/stdin"], input=script, text=True, check=True)

    def test_in_bash_asks_for_the_words_up_to_the_cursor(self, run: Any, tmp_path: Path) -> None:
        program = tmp_path / "kubectl-oneagent"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m oneagent.operator.cli.main "$@"\n')
        program.chmod(0o755)
        line = 'COMP_WORDS=(kubectl-oneagent sta); COMP_CWORD=1; _kubectl_oneagent; echo "${COMPREPLY[@]}"'
        script = f"PATH={tmp_path}:$PATH\n{run('completion', 'bash')}\n{line}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "status\n"

    def test_of_kubectl_is_the_same_program_by_another_name(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["/bin/kubectl_complete-oneagent", "doc"])
        assert main.main() == 0
        assert capsys.readouterr().out == "doctor\n:4\n"


@pytest.mark.parametrize("variable", ["", "1"])
def test_a_terminal_gets_colours_and_a_bar_unless_no_color_is_set(fake_cluster: FakeCluster, variable: str) -> None:
    command = f"{sys.executable} -m oneagent.operator.cli.main status --kubectl={fake_cluster.program}"
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": variable}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment, check=True,
    )  # fmt: skip
    assert "reading the cluster" in done.stdout
    assert ("\x1b[32mNothing needs attention." in done.stdout) is not bool(variable)
    assert "Nothing needs attention." in done.stdout
    coloured = re.search(r"\x1b\[[0-9;]*m", done.stdout)
    assert (coloured is None) is bool(variable)


def test_watch_shows_the_status_again_and_again_until_it_is_interrupted(fake_cluster: FakeCluster) -> None:
    command = [sys.executable, "-m", "oneagent.operator.cli.main", "status", "--watch", "--interval=10ms", "--problems"]
    with subprocess.Popen(
        [*command, f"--kubectl={fake_cluster.program}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        times = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", time) for time in times)
    assert (process.returncode, errors) == (130, "")


class TestProgress:
    @pytest.mark.parametrize("columns", [60, 80])
    def test_has_a_bar_and_a_count_beside_a_step_of_any_length(
        self, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "1", "COLUMNS": str(columns)}.items():
            monkeypatch.setenv(name, value)
        with output.progress("collecting") as (report_progress, add_steps):
            add_steps(40)
            for _ in range(18):
                report_progress("a-namespace-with-a-long-name/checkout-service-7d4b9c6f5d-abcde, all of its containers")
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        last = [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
        assert re.fullmatch(r"collecting [━╸╺ ]{20} 18/40 0:00:0\d a-n\S*… *", last), last
        assert len(last) <= columns
