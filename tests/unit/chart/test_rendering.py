"""The chart as a whole: Helm and a linter accept it, and what one object names exists, whatever is switched on."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from deploy import generate

from tests.unit.chart import linter
from tests.unit.chart.rendering import names, needs_helm, one, rendered

pytestmark = needs_helm

_SWITCHES: Final = {
    "crd": "install",
    "csidriver": "enabled",
    "openshift": "enabled",
    "priorityClass": "create",
    "networkPolicy": "enabled",
    "podMonitor": "enabled",
}


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


def test_helm_renders_the_chart_for_the_kubernetes_that_it_knows() -> None:
    command = [str(generate.HELM), "template", str(generate.CHART), "--set=image.repository=example.com/a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}: an older build of Helm? Run: make helm"


def test_a_linter_of_policies_finds_nothing_that_is_not_meant_so() -> None:
    if not linter.PROGRAM.exists():
        pytest.skip("kube-score is not built: run make helm")
    assert linter.findings(generate.template()) == linter.MEANT


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
            selector = manifest["spec"]["selector"]["matchLabels"]
            # Kubernetes refuses another selector in an upgrade.
            assert selector.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
            assert selector.items() <= template["metadata"]["labels"].items()
    kinds = {kind for kind, _ in there}
    assert ("CustomResourceDefinition" in kinds) == chosen["crd"]
    assert {"CSIDriver", "DaemonSet"} <= kinds if chosen["csidriver"] else not {"CSIDriver", "DaemonSet"} & kinds
    assert ("PriorityClass" in kinds) == chosen["priorityClass"]
    assert ("PodMonitor" in kinds) == chosen["podMonitor"]


def test_it_goes_to_any_namespace() -> None:
    manifests = rendered({"crd": {"install": True}}, "--namespace=elsewhere")
    conversion = one(manifests, "CustomResourceDefinition")["spec"].pop("conversion")
    assert conversion["webhook"]["clientConfig"]["service"]["namespace"] == "elsewhere"
    text = json.dumps([manifest for manifest in manifests if manifest["kind"] != "CustomResourceDefinition"])
    assert "system:serviceaccount:elsewhere:oneagent-operator" in text
    assert not re.search(r"\bdynatrace\b(?![.-])", text)
