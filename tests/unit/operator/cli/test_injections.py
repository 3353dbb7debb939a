"""OpenTelemetryInjections in the plugin: rows, findings and owners as those of DynaKubes."""

from __future__ import annotations

from typing import Any

from oneagent.common.agents.opentelemetry import injection
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.doctor import dynakubes
from oneagent.operator.cli.snapshot import ClusterSnapshot


def normalized(status: str, **spec: Any) -> dict[str, Any]:
    obj = {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop", "namespace": "dynatrace"},
        "spec": {"package": "file:///a.zip", "namespaceSelector": {"matchLabels": {"team": "shop"}}, **spec},
        "status": {"conditions": [{"type": "Exporter", "status": status, "message": "no Secret"}]},
    }
    return injection.normalize_stored(obj)


def snapshot(*kubes: dict[str, Any], label: str = "") -> ClusterSnapshot:
    labels = {"team": "shop"} | ({"dynakube.internal.dynatrace.com/instance": label} if label else {})
    web = {"metadata": {"name": "web", "labels": labels}}
    return ClusterSnapshot(namespace="dynatrace", taken_at=0.0, dynakubes=kubes, namespaces=(web,))


def test_its_failed_condition_is_found_with_the_command_that_shows_it() -> None:
    (finding,) = dynakubes.conditions(snapshot(normalized("False")))
    assert "OpenTelemetryInjection shop: Exporter: no Secret" in finding.sentence
    assert finding.remedy == "kubectl -n dynatrace describe otelinj shop"
    assert k8s_objects.resource("shop") == "dynakube shop"


def test_its_namespace_needs_its_label() -> None:
    (finding,) = dynakubes.namespaces(snapshot(normalized("True")))
    assert "namespace web belongs to OpenTelemetryInjection shop" in finding.sentence
    assert not list(dynakubes.namespaces(snapshot(normalized("True"), label="otelinj.shop")))
    assert not list(dynakubes.leftovers(snapshot(normalized("True"), label="otelinj.shop")))


def test_an_invalid_one_claims_its_namespaces_too() -> None:
    assert not list(dynakubes.leftovers(snapshot(normalized("True", languages=["perl"]), label="otelinj.shop")))
