"""OpenTelemetryInjections in the plugin: rows, findings and owners as those of DynaKubes."""

from __future__ import annotations

from typing import Any

from oneagent.common.agents.opentelemetry import injection
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.terminal import Screen
from oneagent.operator.cli import k8s_objects, output, status
from oneagent.operator.cli.doctor import checks, dynakubes
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.support_archive import report_page
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import but


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


def test_its_kind_and_name_are_shown_and_not_its_internal_name() -> None:
    namespaces = (snapshots.namespace("web", team="shop", **{namespace_mapping.LABEL: "otelinj.shop"}),)
    cluster = but(dynakubes=(snapshots.dynakube("other"), normalized("True")), namespaces=namespaces, reports=())
    found = status.summarize(cluster)
    text = "\n".join(output.status_lines(found, Screen(300), is_wide=True))
    page = report_page.render(found, checks.run_checks(cluster), "2026-01-01T00:00:00Z")
    assert "1 of 1 DynaKubes ready; 0 of 1 OpenTelemetryInjections ready" in text
    assert "OpenTelemetryInjection/shop" in text
    assert "OpenTelemetryInjection/shop" in page
    assert "otelinj." not in text + page
    rows = status.to_json(found)["dynakubes"]
    assert [(row["name"], row["object"], row["mode"]) for row in rows] == [
        ("other", "DynaKube/other", "applicationMonitoring"),
        ("otelinj.shop", "OpenTelemetryInjection/shop", ""),
    ]
