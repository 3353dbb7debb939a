"""Values that become flags of the commands."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable

import pytest
from deploy import generate

from oneagent.common.dynakube.network_defaults import NetworkDefaults
from oneagent.csi_driver.provisioner import main as provisioner
from oneagent.csi_driver.server import main
from oneagent.operator import main as operator
from oneagent.operator.certificates import ca_bundle
from oneagent.sidecars import livenessprobe, registrar
from oneagent.webhook import main as webhook
from tests.unit.chart.rendering import container, needs_helm, one, rendered

pytestmark = needs_helm


def test_flags_become_arguments_of_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_NODE_NAME", "node-1")
    chosen = {"publish-wait": "30s", "keep-logs": True, "log-level": "debug"}
    manifests = rendered(
        {"csidriver": {"server": {"flags": chosen}, "provisioner": {"flags": {"unpack-threads": 2, "log-budget": "0"}}}}
    )
    # Kubelet's directory, which is not here, has to be.
    config = main.parse([*container(manifests, "server")["args"], "--target-root=/"])
    assert (config.publish_wait_seconds, config.keep_logs, config.log_level) == (30.0, True, "debug")
    assert provisioner.parse(container(manifests, "provisioner")["args"]).unpack_threads == 2
    off = rendered({"csidriver": {"server": {"flags": {"keep-logs": False}}}})
    assert "--no-keep-logs" in container(off, "server")["args"]


def test_the_flags_that_may_be_chosen_are_those_of_the_commands() -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text())["properties"]
    driver = schema["csidriver"]["properties"]
    for node, parse in (
        (driver["server"], main.parse),
        (driver["provisioner"], provisioner.parse),
        (driver["registrar"], registrar.read_settings),
        (driver["livenessprobe"], livenessprobe.read_settings),
        (schema["operator"], operator.parse),
        (schema["webhook"], webhook.parse),
    ):
        flags = set(node["properties"]["flags"]["properties"])
        assert flags <= set(re.findall(r"--([a-z][a-z-]+)", _help(parse)))


def _help(parse: Callable[[list[str]], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        parse(["--help"])
    return text.getvalue()


def test_one_level_is_that_of_all_logs_unless_a_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_NODE_NAME", "node-1")
    manifests = rendered({"logLevel": "warning", "operator": {"flags": {"log-level": "debug"}}})
    levels = {
        "server": main.parse([*container(manifests, "server")["args"], "--target-root=/"]).log_level,
        "provisioner": provisioner.parse(container(manifests, "provisioner")["args"]).log_level,
        "operator": operator.parse(container(manifests, "operator")["args"]).log_level,
        "webhook": webhook.parse(container(manifests, "webhook")["args"]).log_level,
    }
    assert levels == {"server": "warning", "provisioner": "warning", "operator": "debug", "webhook": "warning"}


def test_operator_and_nodes_have_the_same_proxy_and_authorities() -> None:
    proxy = {"url": "http://proxy.example.com:3128", "noProxy": [".example.com", "10.0.0.0/8"]}
    manifests = rendered({"proxy": proxy, "trustedCAs": "company"})
    expected = NetworkDefaults("http://proxy.example.com:3128", "", ".example.com,10.0.0.0/8", "company")
    assert operator.parse(container(manifests, "operator")["args"]).network_defaults == expected
    assert provisioner.parse(container(manifests, "provisioner")["args"]).network_defaults == expected
    manifests = rendered({"proxy": {"secret": "company-proxy"}})
    expected = NetworkDefaults(proxy_secret="company-proxy")
    assert operator.parse(container(manifests, "operator")["args"]).network_defaults == expected


def test_nodes_and_operator_reach_images_in_the_same_way() -> None:
    chosen = {"mirrors": ["docker.io=mirror.example:5000/hub", "*=second.example"], "allow": ["*.example.com"]}
    hosts = "docker.io=mirror.example:5000/hub,*=second.example"
    expected = [f"--registry-mirrors={hosts}", "--registry-allow=*.example.com"]
    manifests = rendered({"registries": chosen})
    for name in ("provisioner", "operator"):
        assert [each for each in container(manifests, name)["args"] if each.startswith("--registry-")] == expected


def test_nodes_ask_the_operator_with_a_token_of_their_own() -> None:
    manifests = rendered({"packages": {"mirror": True}})
    config = provisioner.parse(container(manifests, "provisioner")["args"])
    service = one(manifests, "Service", "oneagent-operator")
    assert config.mirror is not None
    assert config.mirror.url == f"https://oneagent-operator.dynatrace.svc:{service['spec']['ports'][0]['port']}"
    pod = one(manifests, "DaemonSet")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "packages")
    token, authorities = volume["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "oneagent-packages"
    assert authorities["configMap"]["name"] == ca_bundle.NAME
    assert [item["key"] for item in authorities["configMap"]["items"]] == [ca_bundle.KEY]
    assert "data" not in one(manifests, "ConfigMap", ca_bundle.NAME), "an upgrade would take the operator's away"
    role = one(manifests, "Role", "oneagent-operator")
    rights = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [ca_bundle.NAME], "verbs": ["patch"]}
    assert rights in role["rules"]


@pytest.mark.parametrize("mirror", [False, True])
def test_no_pod_of_a_node_names_a_secret_which_its_kubelet_could_then_read(mirror: bool) -> None:
    pod = one(rendered({"packages": {"mirror": mirror}}), "DaemonSet")["spec"]["template"]["spec"]
    sources = [source for volume in pod["volumes"] for source in volume.get("projected", {}).get("sources", [volume])]
    assert sources
    assert not [source for source in sources if "secret" in source]
    variables = [entry for each in pod["containers"] for entry in each.get("env", ())]
    assert not [entry for entry in variables if "secretKeyRef" in entry.get("valueFrom", {})]


def test_with_upstreams_registrar_nothing_depends_on_a_flag_that_only_ours_has() -> None:
    image = "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.14.0"
    manifests = rendered({"csidriver": {"registrar": {"image": image}}})
    pod = one(manifests, "DaemonSet")["spec"]["template"]["spec"]
    ours = container(manifests, "registrar")
    assert ours["image"] == image
    assert "command" not in ours
    assert [word.partition("=")[0] for word in ours["args"]] == ["--csi-address", "--kubelet-registration-path"]
    # A driver that stays, but is registered no more, would only keep its own pod from ending.
    assert not [
        word
        for name in ("server", "provisioner")
        for word in container(manifests, name)["args"]
        if "daemonset" in word or "uninstall" in word
    ]
    assert "terminationGracePeriodSeconds" not in pod
    assert not [
        rule for rule in one(manifests, "Role", "oneagent-csi-driver")["rules"] if "daemonsets" in rule["resources"]
    ]
