"""The examples: the API server and the webhook take each of them, and the chart has the values that they set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.common.agents.opentelemetry import crd as injection_crd
from oneagent.common.dynakube.api import schema, version_history, versions
from oneagent.webhook import validation
from oneagent.webhook.validation import injections
from tests.unit.chart import linter
from tests.unit.examples.checks import faults, unknown_values

ROOT: Final = Path(__file__).parents[3]
EXAMPLES: Final = ROOT / "examples"
VALUES: Final = sorted((EXAMPLES / "values").glob("*.yaml"))
OBJECTS: Final = sorted(set(EXAMPLES.rglob("*.yaml")) - set(VALUES))
NAMESPACES: Final = {"web": {"team": "shop"}, "billing": {"team": "payments"}, "core": {"monitored": "true"}}

_PLACEHOLDER: Final = re.compile(r"TENANT[A-Z-]*")

each_object = pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
each_values = pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)


def documents(path: Path) -> list[dict[str, Any]]:
    """With the name of a tenant in the place of each placeholder."""
    text = _PLACEHOLDER.sub(lambda found: f"abc{len(found[0]):05}", path.read_text())
    return list(yaml.load_all(text, yaml.CSafeLoader))


def description(obj: Mapping[str, Any]) -> schema.Schema:
    """The schema of an object's kind and version, which the definition in the cluster is made of."""
    if obj["kind"] == "DynaKube":
        return version_history.described(obj["apiVersion"].rpartition("/")[2])
    (version,) = injection_crd.manifest()["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


@each_object
def test_an_object_is_as_its_definition_describes_it(path: Path) -> None:
    for obj in documents(path):
        assert obj["metadata"]["namespace"] == "dynatrace"
        assert list(faults(obj, description(obj))) == []


def test_the_check_of_objects_finds_what_is_wrong() -> None:
    (obj,) = documents(EXAMPLES / "dynakubes" / "cloud-native.yaml")
    obj["spec"]["oneAgent"]["cloudNativeFullStack"] |= {"tolerations": {}, "codeModulesImagePullPolicy": "Sometimes"}
    obj["spec"] |= {"apiUri": "", "networkZone": 7}
    found = "\n".join(faults(obj, description(obj)))
    assert "tolerations: {} is no array" in found
    assert "codeModulesImagePullPolicy: 'Sometimes' is none of" in found
    assert ".spec.apiUri is not known" in found
    assert ".spec.networkZone: 7 is no string" in found


@each_object
def test_the_webhook_takes_an_object_without_a_warning(path: Path) -> None:
    """Beside the others of its file, on a cluster with the driver and namespaces of both teams."""
    earlier: list[dict[str, Any]] = []
    for obj in documents(path):
        cluster = validation.ClusterState(
            own_namespace="dynatrace",
            dynakubes=tuple(earlier),
            namespaces=NAMESPACES,
            has_csi_driver=True,
            is_csi_driver_known=True,
        )
        check = validation.validate if obj["kind"] == "DynaKube" else injections.validate
        assert check(obj, None, cluster) == validation.ValidationResult()
        earlier.append(obj)


@each_object
def test_a_dynakube_is_written_in_the_newest_version(path: Path) -> None:
    for obj in documents(path):
        if obj["kind"] == "DynaKube":
            assert obj["apiVersion"] == f"dynatrace.com/{versions.NEWEST}"


@each_object
def test_every_secret_that_an_object_names_is_made_by_a_command_in_its_comment(path: Path) -> None:
    made = set(re.findall(r"create secret (?:generic|docker-registry) (\S+)", path.read_text()))
    named = set[str]()
    for obj in documents(path):
        if obj["kind"] == "DynaKube":
            spec, annotations = obj["spec"], obj["metadata"].get("annotations", {})
            token = obj["metadata"]["name"] if "apiUrl" in spec else None
            keys = annotations.get("feature.dynatrace.com/code-modules-image-key")
            named |= {name for name in (token, keys, spec.get("customPullSecret")) if name}
    assert named == made


@each_values
def test_the_chart_has_every_value(path: Path) -> None:
    chart = yaml.load((generate.CHART / "values.yaml").read_text(), yaml.CSafeLoader)
    (chosen,) = documents(path)
    assert list(unknown_values(chosen, chart)) == []


def test_the_check_of_values_finds_a_misspelt_one() -> None:
    chart = {"webhook": {"port": 1, "podLabels": {}}}
    chosen = {"webhook": {"prot": 2, "podLabels": {"a": "b"}}, "web": 1}
    assert list(unknown_values(chosen, chart)) == ["webhook.prot", "web"]


@pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")
@each_values
def test_helm_renders_the_chart_with_each_values_file(path: Path) -> None:
    """Helm refuses what `values.schema.json` does not allow, and the chart what can't be together."""
    rendered = [one for one in yaml.load_all(generate.template(values=path.read_text()), yaml.CSafeLoader) if one]
    (chosen,) = documents(path)
    images = {
        container["image"]
        for one in rendered
        if one["kind"] in ("DaemonSet", "Deployment")
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"{chosen['image']['repository']}:0.1.0"}
    has_driver = chosen.get("csidriver", {}).get("enabled", True)
    assert ("DaemonSet" in {one["kind"] for one in rendered}) == has_driver


@pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("aks", "MutatingWebhookConfiguration", "admissions.enforcer/disabled: 'true'"),
        ("aks", "ValidatingWebhookConfiguration", "admissions.enforcer/disabled: 'true'"),
        ("eks", "Deployment", "hostNetwork: true"),
        ("gke-private", "ResourceQuota", "system-node-critical"),
        ("gke-private", "Deployment", "--address=:10250"),
        ("openshift", "Role", "security.openshift.io"),
        ("air-gap", "DaemonSet", "--registry-mirrors=*=registry.example.com/mirror"),
        ("air-gap", "ConfigMap", "oneagent-packages-ca"),
        ("large-cluster", "DaemonSet", "--download-jitter=10m"),
        ("large-cluster", "PodDisruptionBudget", "oneagent-operator"),
    ],
)
def test_the_values_have_the_effect_that_they_are_for(name: str, kind: str, expected: str) -> None:
    text = generate.template(values=(EXAMPLES / "values" / f"{name}.yaml").read_text())
    found = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one and one["kind"] == kind]
    assert expected in yaml.safe_dump(found, width=1000)


@pytest.mark.skipif(not (generate.HELM.exists() and linter.PROGRAM.exists()), reason="not built: run make helm")
@each_values
def test_the_linter_of_policies_finds_nothing_that_is_not_meant_so(path: Path) -> None:
    (chosen,) = documents(path)
    has_driver = chosen.get("csidriver", {}).get("enabled", True)
    assert linter.findings(generate.template(values=path.read_text())) == (linter.MEANT if has_driver else set())


def test_the_table_lists_every_example_and_the_pages_lead_to_them() -> None:
    table = (EXAMPLES / "README.md").read_text()
    pages = "\n".join(page.read_text() for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
    for path in [*OBJECTS, *VALUES]:
        name = path.relative_to(EXAMPLES).as_posix()
        assert f"]({name})" in table
        assert f"examples/{name}" in pages, name
    for link in re.findall(r"\]\(([^)#]+)", table):
        assert (EXAMPLES / link).exists(), link
