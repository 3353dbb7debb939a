"""Alerts and dashboard of the chart: they name what is measured, say what to do, and fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from tests.unit.common.oci.registries import series

ROOT: Final = Path(__file__).parents[3]
ALERTS: Final = generate.CHART / "files" / "alerts.yaml"
DASHBOARD: Final = generate.CHART / "files" / "dashboard.json"
CASES: Final = Path(__file__).with_name("alerts_test.yaml")
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
OF_OTHERS: Final = {"apiserver_admission_webhook_fail_open_count", "up"}
_NO_METRICS: Final = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:\w+ )?(?:by|without) \([^)]*\)|\boffset \w+|\w+(?= ?\()'
)
_WORDS: Final = {"and", "or", "unless"}
_ON: Final = {"podMonitors": {"enabled": True}, "prometheusRules": {"enabled": True, "labels": {"release": "main"}}}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def questions() -> list[str]:
    """The dashboard's expressions."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


EXPRESSIONS: Final = [*(rule["expr"] for rule in RULES), *questions()]


def named(expression: str) -> set[str]:
    """The metrics of an expression: the words of it that are no function, label, string or number."""
    return set(re.findall(r"\b[a-z_]\w*", _NO_METRICS.sub(" ", expression))) - _WORDS


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool: it is in Debian's package prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)


def helm(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests that alerts and dashboard come in, by their kind."""
    if not generate.HELM.exists():
        pytest.skip("Helm is not built: run make helm")
    text = generate.template(values=json.dumps({"crd": {"install": False}, **values}))
    kinds = ("PrometheusRule", "ConfigMap")
    return {m["kind"]: m for m in yaml.load_all(text, yaml.CSafeLoader) if m and m["kind"] in kinds}


def test_the_metrics_of_an_expression_are_found() -> None:
    expression = 'sum by (pod) (rate(a_total{state="b"}[5m])) > 2 or (c{d="e()"} unless f offset 15m)'
    assert named(expression) == {"a_total", "c", "f"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_measured(expression: str) -> None:
    found = named(expression)
    assert found
    assert found <= series() | OF_OTHERS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_that_are_asked_for_are_those_of_the_metric(expression: str) -> None:
    pages = (ROOT / "docs/metrics.md").read_text() + (ROOT / "docs/packages.md").read_text()
    for metric, selectors in re.findall(r"(oneagent_\w+)\{([^}]*)\}", expression):
        family = re.sub(r"_(bucket|count|sum)$", "", metric)
        (labels,) = re.findall(rf"^\| `{family}` \|[^|]*\|([^|]*)\|", pages, re.MULTILINE)
        assert set(re.findall(r"(\w+)\s*[=!]", selectors)) <= set(re.findall(r"`(\w+)`", labels))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_documentation_lists_all_alerts_and_no_other() -> None:
    listed = re.findall(r"^\| `(OneAgent\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(rule["alert"] for rule in RULES)


def test_every_alert_is_tried() -> None:
    text = CASES.read_text()
    assert not [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in text]


def test_alerts_fire_when_they_should_and_not_before() -> None:
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_alerts_and_the_questions_of_the_dashboard(tmp_path: Path) -> None:
    asked = [question.replace("$__rate_interval", "5m") for question in questions()]
    records = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "questions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    done = promtool("check", "rules", ALERTS, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(asked)} rules found" in done.stdout


def test_the_dashboards_panels_have_places_of_their_own_and_explain_themselves() -> None:
    taken = set[tuple[int, int]]()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["description"], panel["title"]


def test_neither_alerts_nor_dashboard_come_unasked() -> None:
    assert helm({}) == {}


def test_the_chart_brings_the_alerts_as_they_are() -> None:
    rule = helm(_ON)["PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert rule["metadata"]["labels"] == {"release": "main"}


def test_the_chart_brings_the_dashboard_as_it_is() -> None:
    manifest = helm({"dashboard": {"enabled": True}})["ConfigMap"]
    assert json.loads(manifest["data"]["oneagent-csi.json"]) == json.loads(DASHBOARD.read_text())
    assert manifest["metadata"]["labels"] == {"grafana_dashboard": "1"}


def test_alerts_come_with_monitors_of_services_too() -> None:
    assert "PrometheusRule" in helm({"serviceMonitors": {"enabled": True}, "prometheusRules": {"enabled": True}})


def test_alerts_about_what_nobody_reads_are_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        helm({"prometheusRules": {"enabled": True}})
    assert "Set podMonitors.enabled to true" in caught.value.stderr
