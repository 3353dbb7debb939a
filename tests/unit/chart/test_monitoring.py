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
    rule for group in yaml.load(ALERTS.read_text(), yaml.CSafeLoader)["groups"] for rule in group["rules"]
]
OF_TARGETS: Final = {"cluster", "namespace", "node", "pod", "container", "le"}
"""Labels of every series, by the chart's monitors and by Prometheus itself."""
OF_OTHERS: Final = {"apiserver_admission_webhook_fail_open_count", "up"}
_NO_METRICS: Final = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:\w+ )?(?:by|without) \([^)]*\)|\boffset \w+|\w+(?= ?\()'
)
_WORDS: Final = {"and", "or", "unless"}
_ON: Final = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True, "labels": {"release": "main"}}}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def questions() -> list[str]:
    """The dashboard's expressions."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def concrete(question: str) -> str:
    """An expression as Grafana sends it while everything is chosen."""
    return re.sub(r"\$\w+", ".*", question.replace("$__rate_interval", "5m"))


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
        # Two processes may have a metric of the same name.
        (labels,) = set(re.findall(rf"^\| `{family}` \|[^|]*\|([^|]*)\|", pages, re.MULTILINE))
        own = set(re.findall(r"(\w+)\s*[=!]", selectors)) - OF_TARGETS
        assert own <= set(re.findall(r"`(\w+)`", labels))


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
    asked = [concrete(question) for question in questions()]
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


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_what_was_chosen_above_it(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for metric, selectors in re.findall(r"((?:oneagent|process)_\w+)(\{[^}]*\})?", target["expr"]):
            assert 'cluster=~"$cluster", namespace=~"$namespace"' in selectors
            of_a_node = metric.startswith(("oneagent_csi_", "process_"))
            assert ('node=~"$node"' in selectors) == of_a_node


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_the_panel_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        kept = {
            label.strip() for labels in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in labels.split(",")
        }
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept
        assert "pod" not in kept, "a node is told by its name, not by that of the driver's pod"


def test_the_dashboard_has_variables_for_cluster_namespace_node_and_dynakube() -> None:
    variables = {each["name"]: each for each in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "namespace", "node", "dynakube"]
    used = set(re.findall(r"\$(\w+)", " ".join(questions()))) - {"__rate_interval"}
    assert used == variables.keys() - {"datasource"}
    for name in used:
        # Of a Prometheus without such a label, too, everything is shown.
        assert (variables[name]["includeAll"], variables[name]["allValue"]) == (True, ".*")
        (metric,) = re.findall(r"oneagent_\w+", variables[name]["query"]["query"])
        assert metric in series()


def test_neither_alerts_nor_dashboard_come_unasked() -> None:
    assert helm({}) == {}


def test_the_chart_brings_the_alerts_as_they_are() -> None:
    rule = helm(_ON)["PrometheusRule"]
    assert rule["spec"] == yaml.load(ALERTS.read_text(), yaml.CSafeLoader)
    assert rule["metadata"]["labels"]["release"] == "main"


def alerts(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the chart makes of the alerts with these values, by name."""
    spec = helm({**_ON, "prometheusRule": {"enabled": True, **values}})["PrometheusRule"]["spec"]
    return {rule["alert"]: rule for group in spec["groups"] for rule in group["rules"]}


def test_an_alert_can_be_switched_off_and_a_group_without_alerts_goes() -> None:
    group = yaml.load(ALERTS.read_text(), yaml.CSafeLoader)["groups"][0]
    off = {rule["alert"]: {"enabled": False} for rule in group["rules"]}
    spec = helm({**_ON, "prometheusRule": {"enabled": True, "alerts": off}})["PrometheusRule"]["spec"]
    assert group["name"] not in {each["name"] for each in spec["groups"]}
    assert set(alerts({"alerts": off})) == {rule["alert"] for rule in RULES} - off.keys()


def test_thresholds_durations_and_severities_can_be_chosen() -> None:
    chosen = {"threshold": 0.25, "for": "2h", "severity": "critical"}
    found = alerts({"alerts": {"OneAgentCoverageLow": chosen}})
    rule = found.pop("OneAgentCoverageLow")
    assert rule["expr"].endswith(" < 0.25")
    assert (rule["for"], rule["labels"]["severity"]) == ("2h", "critical")
    assert found == {each["alert"]: each for each in RULES if each["alert"] != "OneAgentCoverageLow"}


def test_a_threshold_takes_the_place_of_the_number_that_an_expression_ends_with(tmp_path: Path) -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text())
    known = schema["properties"]["prometheusRule"]["properties"]["alerts"]["properties"]
    assert known.keys() == {rule["alert"] for rule in RULES}
    variable = [name for name, allowed in known.items() if allowed["$ref"] == "#/definitions/alert"]
    found = alerts({"alerts": {name: {"threshold": 4321} for name in variable}})
    for rule in RULES:
        if rule["alert"] in variable:
            before = re.split(r"(?<=[<>] )(?=[^<>]*$)", rule["expr"].strip())[0]
            assert found[rule["alert"]]["expr"].strip() == f"{before}4321"
        else:
            assert found[rule["alert"]] == rule
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "chosen", "rules": list(found.values())}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_have_the_address_of_their_runbook_where_the_documentation_has_one() -> None:
    assert not [rule for rule in alerts({}).values() if "runbook_url" in rule["annotations"]]
    for rule in alerts({"runbookUrlPrefix": "https://git.example.com/blob/main/"}).values():
        runbook = rule["annotations"]["runbook"]
        assert rule["annotations"]["runbook_url"] == f"https://git.example.com/blob/main/{runbook}"


def test_the_chart_brings_the_dashboard_as_it_is() -> None:
    manifest = helm({"dashboard": {"enabled": True}})["ConfigMap"]
    assert json.loads(manifest["data"]["oneagent-csi.json"]) == json.loads(DASHBOARD.read_text())
    assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_alerts_come_with_monitors_of_services_too() -> None:
    assert "PrometheusRule" in helm({"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}})


def test_alerts_about_what_nobody_reads_are_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        helm({"prometheusRule": {"enabled": True}})
    assert "prometheusRule.enabled requires a monitor" in caught.value.stderr
