"""A real Prometheus reads all parts as they run, and finds whatever alerts and dashboard ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications
from tests.fakes.prometheus import Prometheus, running
from tests.unit.chart.test_monitoring import ALERTS, EXPRESSIONS, OF_OTHERS, OF_TARGETS, named

_PORTS: Final = ("metrics", "prov-metrics", "healthz", "reg-metrics")
_PART: Final = "app.kubernetes.io/component"
_SELECTED: Final = re.compile(r"(oneagent_\w+)\{([^}]*)\}")
_GROUPED: Final = re.compile(r"by \(([^)]*)\)")
_SELDOM: Final = {
    # A series of these begins with what it counts: trouble, downloads for pods without CSI, and a breaker that opens.
    "oneagent_operator_package_downloads_total",
    "oneagent_operator_package_requests_total",
    "oneagent_webhook_breaker_open",
}


def targets(kubectl: Kubectl) -> list[dict[str, Any]]:
    """Every port with metrics of all our pods, labelled as the chart's monitors have it done."""
    found = []
    for pod in kubectl.json("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=oneagent-csi")["items"]:
        part, name = pod["metadata"]["labels"][_PART], pod["metadata"]["name"]
        for container in pod["spec"]["containers"]:
            labels = {"job": f"{NAMESPACE}/oneagent-{part}", "pod": name, "container": container["name"]}
            for port in container.get("ports", ()):
                if port["name"] in _PORTS:
                    address = f"{pod['status']['podIP']}:{port['containerPort']}"
                    found.append({"targets": [address], "labels": labels})
    return found


@pytest.fixture
def prometheus(applications: Applications, kubectl: Kubectl, tmp_path: Path) -> Iterator[Prometheus]:
    """All parts are up; a pod has its agent, and another one did not want any."""
    left = manifests.application("left", applications.namespace)
    left["metadata"]["annotations"] = {"dynatrace.com/inject": "false"}
    applications.create(left)
    applications.started(manifests.application("measured", applications.namespace))
    with running(tmp_path, targets(kubectl), ALERTS) as found:
        yield found


def families(prometheus: Prometheus) -> set[str]:
    """What the parts say that they count, also where there is nothing to count yet."""
    found: Any = prometheus.get("/api/v1/targets/metadata")
    return {each["metric"] for each in found}


def asked() -> set[tuple[str, str]]:
    """Each metric of ours that an expression names, with each label that it selects or groups by."""
    found = set()
    for expression in EXPRESSIONS:
        metrics = named(expression) - OF_OTHERS
        for metric, selectors in _SELECTED.findall(expression):
            found |= {(metric, label) for label in re.findall(r"(\w+)\s*[=!]", selectors)}
        for labels in _GROUPED.findall(expression):
            found |= {(metric, label.strip()) for metric in metrics for label in labels.split(",")}
    return {(metric, label) for metric, label in found if label not in OF_TARGETS}


def test_alerts_and_dashboard_ask_for_what_the_running_parts_serve(prometheus: Prometheus, wait_for: WaitFor) -> None:
    wait_for(lambda: _read(prometheus), "every part is read")
    wanted = set().union(*map(named, EXPRESSIONS)) - OF_OTHERS
    there = families(prometheus)
    assert {name for name in wanted if not {name, re.sub(r"_(bucket|count|sum|total)$", "", name)} & there} == set()
    without_series = set()
    for metric, label in sorted(asked()):
        series: Any = prometheus.get("/api/v1/series", **{"match[]": metric})
        without_series |= set() if series else {metric}
        # A series has no label whose value is empty.
        assert not series or any(label in each for each in series), f"{metric} has no label {label}"
    assert without_series <= _SELDOM


def test_no_alert_fires_or_is_about_to_while_all_is_well(prometheus: Prometheus, wait_for: WaitFor) -> None:
    wait_for(lambda: _read(prometheus), "every part is read")
    wait_for(lambda: all(rule["health"] == "ok" for rule in prometheus.all_rules()), "every alert was evaluated")
    # Until the first reading nothing seems to be there.
    wait_for(lambda: not prometheus.get("/api/v1/alerts")["alerts"], "no alert is firing or pending")


def _read(prometheus: Prometheus) -> bool:
    """Whether every target has been read."""
    try:
        up = prometheus.values("up")
    except OSError:
        return False
    return len(up) > 5 and all(up)
