"""The chart and the manifests that are made of it, as files: what can be told of them without Helm."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.csi_driver.provisioner import main as provisioner
from oneagent.csi_driver.server import main
from oneagent.operator import main as operator
from oneagent.sidecars import livenessprobe, registrar
from oneagent.webhook import main as webhook

PARTS: Final = ("csi-driver", "operator", "webhook")
ROOT: Final = Path(__file__).parents[3]
_REFUSED: Final = {"imagePullSecrets", "networkPolicies", "podMonitors", "prometheusRules", "serviceMonitors"}
"""Likely mistakes, which the schema lets pass so that the chart can refuse them and tell its own name."""
_FREE: Final = (
    "commonLabels",
    "commonAnnotations",
    "affinity",
    "nodeSelector",
    "podLabels",
    "podAnnotations",
    "seLinuxOptions",
    "podSecurityContext",
    "securityContext",
    "livenessProbe",
    "readinessProbe",
    "updateStrategy",
    "namespaceSelector",
    "annotations",
    "labels",
    "issuerRef",
    "alerts",
)
"""Mappings of Kubernetes, or of the cluster's owner: what is in them is not listed."""


def shipped(name: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The objects of a file of `deploy/`, by kind, namespace and name."""
    # The CRD is long; the loader in C takes a tenth of the time.
    found = yaml.load_all((generate.CRD.parent / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    return {(m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"]): m for m in found}


def pods(name: str) -> Iterator[dict[str, Any]]:
    for (kind, _, _), manifest in shipped(name).items():
        if kind in ("DaemonSet", "Deployment"):
            yield manifest["spec"]["template"]


def leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all values that can be chosen."""
    for name, value in values.items():
        if isinstance(value, dict) and name not in (*_FREE, "flags", "resources"):
            yield from leaves(value, (*path, name))
        else:
            yield *path, name


@pytest.mark.parametrize("path", generate.PLAIN, ids=lambda path: path.name)
def test_neither_a_plain_manifest_nor_the_chart_was_changed_alone(path: Path) -> None:
    text = path.read_text()
    assert generate.named_digest(text) == generate.digest(text), (
        "change the chart and run: .venv/bin/python deploy/generate.py"
    )


def test_a_change_of_a_manifest_shows_in_its_digest() -> None:
    text = next(iter(generate.PLAIN)).read_text()
    assert generate.digest(text + "# more\n") != generate.digest(text)
    assert generate.digest(text.replace("# Digest: ", "# Digest: 0")) == generate.digest(text)


def test_the_whole_is_its_parts_and_network_policies() -> None:
    whole = shipped("kubernetes")
    (crd,) = shipped("crd").values()
    (labels,) = {key: one["metadata"]["labels"] for key, one in whole.items() if key[0] == crd["kind"]}.values()
    crd["metadata"] |= {"annotations": {"helm.sh/resource-policy": "keep"}, "labels": labels}
    parts = [crd, *shipped("namespace").values()]
    for part in PARTS:
        parts += shipped(part).values()
    policies = [key for key in whole if key[0] == "NetworkPolicy"]
    assert [name for _, _, name in policies] == ["oneagent-operator", "oneagent-webhook", "oneagent-csi-driver"]
    left = {key: manifest for key, manifest in whole.items() if key not in policies}
    assert sorted(left.values(), key=str) == sorted(parts, key=str)


def test_what_is_not_installed_by_helm_does_not_say_that_it_is() -> None:
    text = (generate.CRD.parent / "kubernetes.yaml").read_text()
    assert "helm.sh/chart" not in text
    assert "managed-by" not in text


def test_openshift_has_a_role_a_label_of_selinux_and_a_namespace_that_is_left_alone_besides() -> None:
    plain, openshift = shipped("kubernetes"), shipped("openshift")
    assert {kind for kind, _, name in openshift.keys() - plain.keys()} == {"Role", "RoleBinding"}
    assert {kind for kind in (key[0] for key in plain if plain[key] != openshift[key])} == {"DaemonSet", "Namespace"}
    (pod,) = (pod for pod in pods("openshift") if pod["spec"]["serviceAccountName"] == "oneagent-csi-driver")
    assert pod["spec"]["securityContext"].pop("seLinuxOptions") == {"type": "spc_t"}
    assert pod in list(pods("kubernetes"))


def test_every_port_of_a_pod_is_let_in_and_no_other() -> None:
    policies = [manifest for key, manifest in shipped("kubernetes").items() if key[0] == "NetworkPolicy"]
    for pod in pods("kubernetes"):
        labels = pod["metadata"]["labels"].items()
        (policy,) = (p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels)
        served = {port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports", ())}
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == served


def test_every_command_takes_the_arguments_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_NODE_NAME", "node-1")
    commands: dict[str, Callable[[list[str]], object]] = {
        # Kubelet's folder, which is not here, has to be.
        "server": lambda arguments: main.parse([*arguments, "--target-root=/"]),
        "provisioner": provisioner.parse,
        "operator": operator.parse,
        "webhook": webhook.parse,
        "registrar": registrar.read_settings,
        "livenessprobe": livenessprobe.read_settings,
    }
    for pod in pods("kubernetes"):
        for container in pod["spec"]["containers"]:
            commands.pop(container["name"])(container["args"])
    assert not commands


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.load((generate.CHART / "Chart.yaml").read_text(), yaml.CSafeLoader)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["name"] == project["name"]


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text())
    values = yaml.load((generate.CHART / "values.yaml").read_text(), yaml.CSafeLoader)

    def described(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, inner in node["properties"].items():
            if "properties" in inner and name not in (*_FREE, "flags"):
                # What else a chart of charts has there is none of ours.
                assert name == "global" or inner["additionalProperties"] is False
                yield from described(inner, (*path, name))
            else:
                yield *path, name

    assert set(described(schema)) == {*((name,) for name in _REFUSED), *leaves(values)}


def test_the_server_sees_the_nodes_processes_where_its_variable_says_and_nobody_else_does() -> None:
    (pod,) = pods("csi-driver")
    mounts = {
        container["name"]: [mount for mount in container["volumeMounts"] if mount["name"] == "proc"]
        for container in pod["spec"]["containers"]
    }
    (server,) = (container for container in pod["spec"]["containers"] if container["name"] == "server")
    (variable,) = (one for one in server["env"] if one["name"] == "ONEAGENT_PROC")
    assert mounts.pop("server") == [{"name": "proc", "mountPath": variable["value"], "readOnly": True}]
    assert not any(mounts.values())
