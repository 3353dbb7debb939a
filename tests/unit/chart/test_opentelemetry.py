"""OpenTelemetryInjections are off unless the chart's user turns them on; then all parts know them."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

import pytest
import yaml
from deploy import generate

pytestmark = pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")

_GROUP: Final = "csi.oneagent.dynatrace.com"


def rendered(**values: Any) -> list[dict[str, Any]]:
    text = generate.template(values=json.dumps(values))
    return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


def test_by_default_nothing_knows_them() -> None:
    assert "opentelemetry" not in str(rendered()).lower()


def test_turned_on_each_part_watches_them_and_may() -> None:
    found = rendered(opentelemetry={"enabled": True})
    (crd,) = (each for each in found if each["kind"] == "CustomResourceDefinition" and each["spec"]["group"] == _GROUP)
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    flagged = {
        container["name"]
        for each in found
        if each["kind"] in ("DaemonSet", "Deployment")
        for container in each["spec"]["template"]["spec"]["containers"]
        if "--opentelemetry" in container["args"]
    }
    assert flagged == {"provisioner", "operator", "webhook"}
    verbs = {
        each["metadata"]["name"]: rule["verbs"]
        for each in found
        if each["kind"] == "Role"
        for rule in each.get("rules") or ()
        if rule["apiGroups"] == [_GROUP] and rule["resources"] == ["opentelemetryinjections"]
    }
    assert verbs == {
        "oneagent-csi-driver": ["list", "watch"],
        "oneagent-webhook": ["list", "watch"],
        "oneagent-operator": ["list", "watch", "patch"],
    }


def test_the_definition_can_be_managed_elsewhere() -> None:
    kinds = [each["kind"] for each in rendered(opentelemetry={"enabled": True}, crd={"install": False})]
    assert "CustomResourceDefinition" not in kinds


def test_without_the_driver_it_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(opentelemetry={"enabled": True}, csidriver={"enabled": False})
    assert "opentelemetry.enabled requires csidriver.enabled" in refused.value.stderr
