"""What Helm makes of the chart with other values than its own."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.csi_driver.provisioner import main as provisioner
from oneagent.csi_driver.server import main
from oneagent.operator import main as operator
from oneagent.operator.certificates import ca_bundle
from oneagent.sidecars import livenessprobe, registrar
from oneagent.webhook import main as webhook

_LINTER: Final = generate.HELM.parents[2] / "linter" / "bin" / "kube-score"
_ACCEPTED: Final = {
    # Who has a limit of the CPU is slow when it matters; requests share it fairly.
    "container-resources",
    # What containers write is on the node's disk, which the driver budgets, or in volumes with a limit of their own.
    "container-ephemeral-storage-request-and-limit",
    # The image of a version never changes, and a node that has it needs no registry to start the driver.
    "container-image-pull-policy",
    # The driver is root. Numbers for the others are the image's, or OpenShift's.
    "container-security-context-user-group-id",
}
_SWITCHES: Final = {
    "crd": "install",
    "csidriver": "enabled",
    "openshift": "enabled",
    "priorityClass": "create",
    "networkPolicies": "enabled",
    "podMonitors": "enabled",
}
_ISSUED: Final = {"certificates": {"issuer": "cert-manager"}}

Manifest = dict[str, Any]


@pytest.fixture(autouse=True)
def helm() -> None:
    if not generate.HELM.exists():
        pytest.skip("Helm is not built: run make helm")


def rendered(values: Mapping[str, Any] | None = None, *flags: str) -> list[Manifest]:
    """Without the CRD, which is long, unless the values want it."""
    text = generate.template(*flags, values=json.dumps({"crd": {"install": False}, **(values or {})}))
    found = yaml.load_all(text, yaml.CSafeLoader)
    return [manifest for manifest in found if manifest]


def refusal(values: Mapping[str, Any]) -> str:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(values)
    return str(caught.value.stderr)


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"]))
    return found


def container(manifests: list[Manifest], name: str) -> dict[str, Any]:
    pods = (m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment"))
    (found,) = (each for pod in pods for each in pod["containers"] if each["name"] == name)
    return dict(found)


def names(manifests: list[Manifest]) -> set[tuple[str, str]]:
    return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}


@pytest.mark.parametrize("path", generate.PLAIN, ids=lambda path: path.name)
def test_the_plain_manifests_are_current(path: Path) -> None:
    assert generate.PLAIN[path].render() == path.read_text(), "run: .venv/bin/python deploy/generate.py"


def test_it_has_nothing_that_helm_would_complain_of() -> None:
    command = [
        str(generate.HELM),
        "lint",
        "--strict",
        f"--kube-version={generate.OLDEST_KUBERNETES}",
        str(generate.CHART),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_linter_of_policies_finds_nothing_that_is_not_meant_so() -> None:
    if not _LINTER.exists():
        pytest.skip("kube-score is not built: run make helm")
    command = [str(_LINTER), "score", "-o", "json", "--kubernetes-version=v1.30", "-"]
    done = subprocess.run(command, input=generate.template(), capture_output=True, text=True, check=False)
    found = {
        (item["object_name"].rsplit("/")[-1], check["check"]["id"], comment["path"])
        for item in json.loads(done.stdout)
        for check in item["checks"]
        if check["grade"] == 1 and not check["skipped"] and check["check"]["id"] not in _ACCEPTED
        for comment in check["comments"]
    }
    assert found == {("oneagent-csi-driver", "container-security-context-privileged", "server")}


@pytest.mark.parametrize("switches", list(itertools.product((False, True), repeat=3)), ids=str)
def test_however_the_switches_are_what_is_named_is_there(switches: tuple[bool, bool, bool]) -> None:
    # Any two of the six are in each of their four states in one of the cases.
    a, b, c = switches
    chosen = dict(zip(_SWITCHES, (a, b, c, a != b, b != c, a != c), strict=True))
    manifests = rendered({name: {_SWITCHES[name]: value} for name, value in chosen.items()})
    there = names(manifests)
    assert len(there) == len({(m["kind"], m["metadata"]["name"]) for m in manifests})
    for manifest in manifests:
        assert manifest["metadata"].get("namespace", generate.NAMESPACE) in (generate.NAMESPACE, "default")
        for subject in manifest.get("subjects", ()):
            assert (subject["kind"], subject["name"]) in there
        if "roleRef" in manifest:
            assert (manifest["roleRef"]["kind"], manifest["roleRef"]["name"]) in there
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            template = manifest["spec"]["template"]
            assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in there
            assert manifest["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    kinds = {kind for kind, _ in there}
    assert ("CustomResourceDefinition" in kinds) == chosen["crd"]
    assert {"CSIDriver", "DaemonSet"} <= kinds if chosen["csidriver"] else not {"CSIDriver", "DaemonSet"} & kinds
    assert ("PriorityClass" in kinds) == chosen["priorityClass"]
    assert ("PodMonitor" in kinds) == chosen["podMonitors"]


def test_it_goes_to_any_namespace() -> None:
    manifests = rendered({"crd": {"install": True}}, "--namespace=elsewhere")
    conversion = one(manifests, "CustomResourceDefinition")["spec"].pop("conversion")
    assert conversion["webhook"]["clientConfig"]["service"]["namespace"] == "elsewhere"
    text = json.dumps([manifest for manifest in manifests if manifest["kind"] != "CustomResourceDefinition"])
    assert "system:serviceaccount:elsewhere:oneagent-operator" in text
    assert not re.search(r"\bdynatrace\b(?![.-])", text)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "oneagent-csi:0.1.0"),
        ({"repository": "example.com/agents/csi", "tag": "v2"}, "example.com/agents/csi:v2"),
        ({"tag": "v2", "digest": f"sha256:{'a' * 64}"}, f"oneagent-csi@sha256:{'a' * 64}"),
    ],
)
def test_all_containers_and_those_in_pods_have_the_image(image: dict[str, str], expected: str) -> None:
    manifests = rendered({"image": {"pullPolicy": "Always", "pullSecrets": [{"name": "registry"}], **image}})
    pods = [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
    assert len(pods) == 3
    assert {each["image"] for pod in pods for each in pod["containers"]} == {expected}
    assert {each["imagePullPolicy"] for pod in pods for each in pod["containers"]} == {"Always"}
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}] for pod in pods)
    assert {f"--image={expected}", "--image-pull-policy=Always"} <= set(container(manifests, "webhook")["args"])


def test_another_folder_of_kubelet_is_meant_everywhere() -> None:
    text = generate.template(values="csidriver: {kubeletPath: /var/lib/k0s/kubelet/}")
    assert "/var/lib/kubelet" not in text
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    assert "--target-root=/var/lib/k0s/kubelet" in container(manifests, "server")["args"]
    mounted = {mount["mountPath"] for mount in container(manifests, "server")["volumeMounts"]}
    assert "/var/lib/k0s/kubelet/pods" in mounted


def test_flags_become_arguments_of_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_NODE_NAME", "node-1")
    chosen = {"publish-wait": "30s", "keep-logs": True, "log-level": "debug"}
    manifests = rendered(
        {"csidriver": {"server": {"flags": chosen}, "provisioner": {"flags": {"unpack-threads": 2, "log-budget": "0"}}}}
    )
    # Kubelet's folder, which is not here, has to be.
    config = main.parse([*container(manifests, "server")["args"], "--target-root=/"])
    assert (config.publish_wait_seconds, config.keep_logs, config.log_level) == (30.0, True, "debug")
    assert provisioner.parse(container(manifests, "provisioner")["args"]).unpack_threads == 2
    off = rendered({"csidriver": {"server": {"flags": {"keep-logs": False}}}})
    assert "--no-keep-logs" in container(off, "server")["args"]


def test_nodes_and_operator_reach_images_in_the_same_way() -> None:
    chosen = {"mirrors": ["docker.io=mirror.example:5000/hub", "*=second.example"], "allow": ["*.example.com"]}
    hosts = "docker.io=mirror.example:5000/hub,*=second.example"
    expected = [f"--registry-mirrors={hosts}", "--registry-allow=*.example.com"]
    manifests = rendered({"registries": chosen})
    for name in ("provisioner", "operator"):
        assert [each for each in container(manifests, name)["args"] if each.startswith("--registry-")] == expected


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


def test_the_startup_taint_is_tolerated_by_those_without_whom_it_would_stay() -> None:
    manifests = rendered({"startupTaint": "example.com/agent:NoExecute"})
    assert "--startup-taint=example.com/agent:NoExecute" in container(manifests, "operator")["args"]
    for name in ("oneagent-operator", "oneagent-webhook"):
        pod = one(manifests, "Deployment", name)["spec"]["template"]["spec"]
        assert pod["tolerations"] == [{"key": "example.com/agent", "effect": "NoExecute", "operator": "Exists"}]


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


def test_cert_manager_makes_the_webhooks_certificate_and_no_packages_are_served() -> None:
    manifests = rendered(_ISSUED)
    certificate = one(manifests, "Certificate", "oneagent-webhook")
    assert certificate["spec"]["secretName"] == "oneagent-webhook-certs"
    assert ("Issuer", certificate["spec"]["issuerRef"]["name"]) in names(manifests)
    config = operator.parse(container(manifests, "operator")["args"])
    assert (config.certificates, config.package_address) == ("cert-manager", "")
    assert ("Service", "oneagent-operator") not in names(manifests)


def test_an_issuer_that_is_there_is_used() -> None:
    reference = {"name": "company", "kind": "ClusterIssuer"}
    manifests = rendered({"certificates": {"issuer": "cert-manager", "certManager": {"issuerRef": reference}}})
    assert one(manifests, "Certificate")["spec"]["issuerRef"] == {"group": "cert-manager.io", **reference}
    assert not [name for kind, name in names(manifests) if kind == "Issuer"]


def test_one_webhook_has_no_budget_that_would_keep_its_node_from_being_emptied() -> None:
    assert ("PodDisruptionBudget", "oneagent-webhook") in names(rendered())
    assert ("PodDisruptionBudget", "oneagent-webhook") not in names(rendered({"webhook": {"replicas": 1}}))


def test_those_who_may_read_metrics_are_named_and_the_operator_is_one_of_them() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    manifests = rendered({"networkPolicies": {"metricsFrom": [monitoring]}})
    (rule,) = one(manifests, "NetworkPolicy", "oneagent-csi-driver")["spec"]["ingress"]
    assert rule["from"][0] == monitoring
    assert rule["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    requests, metrics = one(manifests, "NetworkPolicy", "oneagent-webhook")["spec"]["ingress"]
    assert "from" not in requests
    assert metrics["from"]


def test_metrics_are_read_from_namespaces_that_are_labelled_for_monitoring_by_default() -> None:
    for name in ("operator", "webhook", "csi-driver"):
        *_, metrics = one(rendered({}), "NetworkPolicy", f"oneagent-{name}")["spec"]["ingress"]
        labels = [peer["namespaceSelector"]["matchLabels"] for peer in metrics["from"] if "namespaceSelector" in peer]
        assert labels == [{"metrics": "enabled"}, {"network.openshift.io/policy-group": "monitoring"}]


def test_the_webhook_can_be_left_to_the_addresses_of_api_servers() -> None:
    manifests = rendered({"networkPolicies": {"apiServers": ["10.0.0.0/28", "fd00::/64"]}})
    requests, _ = one(manifests, "NetworkPolicy", "oneagent-webhook")["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in requests["from"][:-1]] == ["10.0.0.0/28", "fd00::/64"]
    # It looks which certificate is served.
    assert requests["from"][-1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


def test_the_webhook_can_ask_api_servers_for_certificates() -> None:
    manifests = rendered({"webhook": {"clientCA": "api-servers"}})
    webhook = container(manifests, "webhook")
    (mount,) = webhook["volumeMounts"]
    (volume,) = one(manifests, "Deployment", "oneagent-webhook")["spec"]["template"]["spec"]["volumes"]
    assert (volume["name"], volume["configMap"]["name"]) == (mount["name"], "api-servers")
    (item,) = volume["configMap"]["items"]
    assert f"--client-ca={mount['mountPath']}/{item['path']}" in webhook["args"]


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_every_port_with_metrics_is_read_whichever_kind_of_monitor_is_chosen(kind: str) -> None:
    manifests = rendered({f"{kind[0].lower()}{kind[1:]}s": {"enabled": True, "interval": "7s", "labels": {"a": "b"}}})
    pods = [m["spec"]["template"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
    for pod in pods:
        labels = pod["metadata"]["labels"]
        (monitor,) = (m for m in manifests if m["kind"] == kind and m["spec"]["selector"]["matchLabels"] == labels)
        assert monitor["metadata"]["labels"] == {"a": "b"}
        endpoints = monitor["spec"]["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
        assert {endpoint["interval"] for endpoint in endpoints} == {"7s"}
        served = {p["name"] for each in pod["spec"]["containers"] for p in each.get("ports", ())}
        assert {endpoint["port"] for endpoint in endpoints} == served - {"https", "packages"}


def test_monitors_of_services_find_their_services_and_give_jobs_the_names_that_alerts_know() -> None:
    manifests = rendered({"serviceMonitors": {"enabled": True}}, "--namespace=elsewhere")
    monitors = [manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        name, wanted = monitor["metadata"]["name"], monitor["spec"]["selector"]["matchLabels"]
        (service,) = (m for m in manifests if m["kind"] == "Service" and m["metadata"].get("labels") == wanted)
        assert service["spec"]["selector"] == wanted
        assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
        pods = [m["spec"]["template"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
        (pod,) = (pod for pod in pods if pod["metadata"]["labels"] == wanted)
        ports = {p["name"]: p["containerPort"] for each in pod["spec"]["containers"] for p in each.get("ports", ())}
        assert all(ports[port["name"]] == port["port"] for port in service["spec"]["ports"])
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": f"elsewhere/{name}"}]


def test_labels_and_annotations_are_added_and_none_of_ours_is_lost() -> None:
    labels = {"team": "platform", "app.kubernetes.io/component": "mine"}
    manifests = rendered({"csidriver": {"podLabels": labels, "podAnnotations": {"example.com/note": "1"}}})
    metadata = one(manifests, "DaemonSet")["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "platform"
    assert metadata["labels"]["app.kubernetes.io/component"] == "csi-driver"
    assert metadata["annotations"]["example.com/note"] == "1"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "server"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"image": {"tagg": "1"}}, "'/image': additional properties 'tagg'"),
        ({"csiDriver": {}}, "'csiDriver' not allowed"),
        ({"csidriver": {"kubeletPath": "kubelet"}}, "'/csidriver/kubeletPath'"),
        ({"csidriver": {"server": {"flags": {"publsh-wait": "3s"}}}}, "'publsh-wait' not allowed"),
        ({"csidriver": {"server": {"flags": {"publish-wait": 3}}}}, "'/csidriver/server/flags/publish-wait'"),
        ({"csidriver": {"tolerations": {"operator": "Exists"}}}, "'/csidriver/tolerations'"),
        ({"operator": {"replicas": 0}}, "'/operator/replicas'"),
        ({"webhook": {"timeoutSeconds": 31}}, "'/webhook/timeoutSeconds'"),
        ({"certificates": {"issuer": "vault"}}, "'self', 'cert-manager'"),
        ({"startupTaint": "example.com/agent"}, "'/startupTaint'"),
        ({"startupTaint": "node.kubernetes.io/not-ready:NoSchedule"}, "Kubernetes' own"),
        ({"registries": {"mirrors": ["docker.io/team=mirror.example"]}}, "'/registries/mirrors/0'"),
        ({"packages": {"mirror": True, "enabled": False}}, "packages.mirror"),
        ({"packages": {"mirror": True}, **_ISSUED}, "Set packages.mirror to false"),
        ({"csidriver": {"enabled": False}, **_ISSUED}, "csidriver.enabled is false"),
        ({"podMonitors": {"enabled": True}, "serviceMonitors": {"enabled": True}}, "Set one of them to false"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_by_its_name(values: dict[str, Any], expected: str) -> None:
    assert expected in refusal(values)


def test_kubernetes_of_before_the_admission_policies_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        generate.template("--kube-version=1.29.0")
    assert "1.30" in caught.value.stderr


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
