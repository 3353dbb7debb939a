"""The init container with a CSI volume: files for each container, and a clear word when the agent is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.agents.oneagent import pod_files
from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.sidecars.init_container import (
    InstallError,
    NoAgentError,
    SettingsError,
    ShareWriteError,
    container_files,
    main,
    settings,
)
from tests.unit.sidecars.init_container.pod_environment import Pod, variables, wanted

ALL_VARIABLES = sorted(value for name, value in vars(Variable).items() if name.isupper())


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "pod")


class TestFiles:
    def test_each_container_is_told_who_it_is(self, pod: Pod) -> None:
        container_files.write(str(pod.share), wanted("provisioned", HOST_TENANT="abc12345"))
        assert (pod.share / "container_app.conf").read_text() == (
            "[container]\ncontainerName app\nimageName registry.example/app:1\n"
            "k8s_fullpodname shop-7f9c-x2x\nk8s_poduid 0f1e2d3c-uid\nk8s_containername app\n"
            "k8s_basepodname shop-7f9c\nk8s_namespace shop\nk8s_cluster_id c0ffee\nk8s_node_name node-1\n"
            "\n[host]\ntenant abc12345\nisCloudNativeFullStack true\n"
        )
        assert "imageName registry.example/proxy:2" in (pod.share / "container_proxy.conf").read_text()

    def test_metadata_is_the_same_as_json_and_as_properties(self, pod: Pod) -> None:
        container_files.write(str(pod.share), wanted("provisioned"))
        facts = json.loads((pod.share / "enrichment/dt_metadata.json").read_text())
        lines = (pod.share / "enrichment/dt_metadata.properties").read_text().splitlines()
        assert dict(line.split("=", 1) for line in lines) == facts
        assert facts == {
            "k8s.pod.uid": "0f1e2d3c-uid",
            "k8s.pod.name": "shop-7f9c-x2x",
            "k8s.namespace.name": "shop",
            "k8s.node.name": "node-1",
            "k8s.workload.kind": "deployment",
            "k8s.workload.name": "shop",
            "k8s.cluster.uid": "c0ffee",
            "dt.kubernetes.workload.kind": "deployment",
            "dt.kubernetes.workload.name": "shop",
            "dt.kubernetes.cluster.id": "c0ffee",
        }

    def test_resource_attributes_come_before_what_the_pod_is(self) -> None:
        attributes = {"my.team": "platform", "example.com/zone": "a", "k8s.cluster.uid": "mine", "empty": ""}
        known = pod_files.metadata(wanted("provisioned", RESOURCE_ATTRIBUTES=json.dumps(attributes)).files)
        plain = pod_files.metadata(wanted("provisioned").files)
        assert known == {**plain, "my.team": "platform", "example.com/zone": "a", "k8s.cluster.uid": "mine"}

    @pytest.mark.parametrize("text", ["{", "[]", "null", '{"a": 1}', "[" * 2000])
    def test_resource_attributes_that_are_none_are_refused(self, text: str) -> None:
        with pytest.raises(SettingsError, match=r"RESOURCE_ATTRIBUTES: .* is not a JSON object of texts"):
            wanted("provisioned", RESOURCE_ATTRIBUTES=text)

    @given(st.text(max_size=30))
    def test_no_value_can_say_more_than_its_own_line(self, value: str) -> None:
        attributes = json.dumps({value: value})
        given_ = wanted("provisioned", DT_WORKLOAD_NAME=value, K8S_NODE_NAME=value, RESOURCE_ATTRIBUTES=attributes)
        files = dict(given_.files.render())
        known = pod_files.metadata(given_.files)
        assert len(files["enrichment/dt_metadata.properties"].splitlines()) == len(known)
        assert json.loads(files["enrichment/dt_metadata.json"]) == known
        assert files["container_app.conf"].count("\n") <= 11

    def test_what_is_not_asked_for_is_not_written(self) -> None:
        assert set(dict(wanted("provisioned", DATA_INGEST_INJECTED="false").files.render())) == {
            "container_app.conf",
            "container_proxy.conf",
        }
        only_metadata = variables("", ONEAGENT_INJECTED="false")
        assert set(dict(settings.read(only_metadata).files.render())) == {
            "enrichment/dt_metadata.json",
            "enrichment/dt_metadata.properties",
        }

    @pytest.mark.parametrize(("milliseconds", "there"), [("6000", True), ("0", False), ("-1", False), ("", False)])
    def test_a_retry_of_the_first_connection_has_a_file(self, milliseconds: str, there: bool) -> None:
        files = dict(wanted("provisioned", INITIAL_CONNECT_RETRY_MS=milliseconds).files.render())
        assert files.get("curl_options.conf") == ("initialConnectRetryMs 6000\n" if there else None)

    def test_every_user_may_read_and_no_umask_changes_that(self, pod: Pod) -> None:
        before = os.umask(0o077)
        try:
            container_files.write(str(pod.share), wanted("provisioned"))
        finally:
            os.umask(before)
        assert (pod.share / "enrichment").stat().st_mode & 0o777 == 0o755
        files = [path for path in pod.share.rglob("*") if path.is_file()]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
        assert not list(pod.share.rglob("*.new"))

    def test_what_an_earlier_run_or_kubelet_has_left_gives_way(self, pod: Pod) -> None:
        container_files.write(str(pod.share), wanted("provisioned"))
        (pod.share / "container_app.conf").chmod(0o400)
        (pod.share / "container_app.conf.new").write_text("torn")
        (pod.share / "container_proxy.conf").unlink()
        (pod.share / "container_proxy.conf").mkdir()
        container_files.write(str(pod.share), wanted("provisioned", K8S_PODUID="another"))
        for name in ("app", "proxy"):
            assert "k8s_poduid another" in (pod.share / f"container_{name}.conf").read_text()

    def test_a_link_that_an_application_has_planted_is_not_followed(self, pod: Pod, tmp_path: Path) -> None:
        (pod.share / "enrichment").mkdir()
        (tmp_path / "victim").write_text("mine")
        (pod.share / "enrichment/dt_metadata.json.new").symlink_to(tmp_path / "victim")
        container_files.write(str(pod.share), wanted("provisioned"))
        assert (tmp_path / "victim").read_text() == "mine"

    def test_a_folder_that_refuses_is_named(self, pod: Pod) -> None:
        (pod.share / "container_app.conf").mkdir()
        (pod.share / "container_app.conf/file").touch()
        with pytest.raises(ShareWriteError, match=r"container_app\.conf: .*oneagent-share"):
            container_files.write(str(pod.share), wanted("provisioned"))


class TestView:
    def test_a_whole_one_is_fine(self, pod: Pod) -> None:
        pod.view()
        main.check_view(str(pod.bin), "node-1")

    @pytest.mark.parametrize(
        ("prepare", "said"),
        [
            (lambda pod: None, "is empty: the CSI driver had no agent for this pod on node node-1"),
            (lambda pod: (pod.bin / "log").mkdir(), "is empty: the CSI driver had no agent"),
            (lambda pod: pod.place_inert_library(), "is empty: the CSI driver had no agent"),
            (lambda pod: pod.view(library=False), "has no agent/lib64/liboneagentproc.so"),
            (lambda pod: pod.bin.rmdir(), "can't be read: No such file or directory"),
        ],
    )
    def test_another_one_is_told_from_it(self, pod: Pod, prepare: object, said: str) -> None:
        assert callable(prepare)
        prepare(pod)
        with pytest.raises(NoAgentError, match=said):
            main.check_view(str(pod.bin), "node-1")


class TestVariables:
    def test_all_that_is_missing_is_named_at_once(self) -> None:
        given_ = variables("provisioned")
        for name in ("K8S_PODUID", "MODE", "CONTAINER_2_NAME"):
            del given_[name]
        with pytest.raises(SettingsError, match="not set: K8S_PODUID, MODE, CONTAINER_2_NAME: the webhook"):
            settings.read(given_)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("MODE", "csi"),
            ("ONEAGENT_INJECTED", "yes"),
            ("CONTAINERS_COUNT", "-1"),
            ("CONTAINERS_COUNT", "1000000"),
            ("CONTAINER_1_NAME", "../../etc/passwd"),
            ("CONTAINER_1_NAME", "A" * 300),
            ("INITIAL_CONNECT_RETRY_MS", "soon"),
            ("DATA_INGEST_INJECTED", "1"),
        ],
    )
    def test_a_value_that_cant_be_used_is_named(self, name: str, value: str) -> None:
        with pytest.raises(SettingsError, match=name):
            settings.read(variables("provisioned", **{name: value}))

    @given(st.dictionaries(st.sampled_from(ALL_VARIABLES), st.text(max_size=20)))
    def test_garbage_is_settings_or_a_settings_error(self, environ: dict[str, str]) -> None:
        try:
            settings.read(environ)
        except InstallError as error:
            assert len(str(error)) < 2000

    def test_only_a_clear_fail_holds_a_pod_back(self) -> None:
        policies = ("fail", "silent", "", "Fail!", "none")
        assert [settings.is_silent({"FAILURE_POLICY": policy}) for policy in policies] == [False, *[True] * 4]


class TestCommand:
    @pytest.mark.parametrize(
        ("policy", "prepared", "code", "outcome"),
        [
            ("silent", True, 0, ""),
            ("fail", True, 0, ""),
            ("silent", False, 0, "So the pod starts anyway."),
            ("fail", False, 1, "So the pod waits, because its failure policy is fail."),
        ],
    )
    def test_the_policy_decides_what_becomes_of_an_empty_view(
        self, pod: Pod, policy: str, prepared: bool, code: int, outcome: str
    ) -> None:
        if prepared:
            pod.view()
        assert pod.run(variables("provisioned", policy))[0] == code
        message = pod.message.read_text()
        assert message.endswith(outcome)
        assert ("is empty" in message) is not prepared
        # What is known of the pod does not depend on its agent.
        assert (pod.share / "container_app.conf").exists()

    @pytest.mark.parametrize(("policy", "code"), [("silent", 0), ("fail", 1), ("nonsense", 0)])
    def test_garbage_is_told_and_the_policy_kept(self, pod: Pod, policy: str, code: int) -> None:
        pod.view()
        environ = variables("provisioned", policy, CONTAINERS_COUNT="many", K8S_PODNAME="\udcff\udcfe")
        found, said = pod.run(environ)
        assert found == code
        assert json.loads(said)["message"] == pod.message.read_text()
        assert "CONTAINERS_COUNT: 'many' is not a number of containers" in said

    def test_one_problem_does_not_hide_another(self, pod: Pod) -> None:
        (pod.share / "container_app.conf").mkdir()
        (pod.share / "container_app.conf/file").touch()
        assert pod.run(variables("provisioned", "fail"))[0] == 1
        message = pod.message.read_text()
        assert "container_app.conf" in message
        assert "oneagent-bin is empty" in message

    def test_a_message_fits_where_kubelet_shows_it(self, pod: Pod) -> None:
        pod.run(variables("provisioned", "fail", MODE="ü" * 40, K8S_NODE_NAME="ü" * 5000))
        pod.bin.rmdir()
        pod.run(variables("provisioned", "fail", K8S_NODE_NAME="ü" * 5000))
        assert 3900 < len(pod.message.read_bytes()) <= 4096
        pod.message.read_text()

    def test_nowhere_to_leave_a_word_is_no_problem(self, pod: Pod) -> None:
        pod.message.unlink()
        pod.message.mkdir()
        assert pod.run(variables("provisioned"))[0] == 0

    def test_nobody_to_hear_is_no_problem(self, pod: Pod) -> None:
        with open("/dev/full", "wb") as full:
            process = pod.start(variables("provisioned"), stderr=full)
            assert process.wait(20) == 0
        assert "is empty" in pod.message.read_text()

    def test_by_hand_it_says_what_it_needs(self) -> None:
        command = [sys.executable, "-m", "oneagent.sidecars.init_container.main"]
        done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "not set: FAILURE_POLICY, K8S_PODNAME, K8S_PODUID, K8S_NAMESPACE" in done.stderr
        assert "--help" in done.stderr

    def test_help_names_every_variable(self) -> None:
        command = [sys.executable, "-m", "oneagent.sidecars.init_container.main", "--help"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not [name for name in ALL_VARIABLES if name.replace("{number}", "<n>") not in said]


def test_with_csi_nothing_heavy_is_loaded() -> None:
    program = "import sys, oneagent.sidecars.init_container.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"argparse", "asyncio", "concurrent.futures", "ctypes", "httpx2", "isal", "msgspec", "ssl", "tempfile"}
    assert not heavy & set(loaded.stdout.split())
