"""What the documentation says of flags, commands, metrics, values, DynaKubes and files is true of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs import generate, values
from prometheus_client import CollectorRegistry

from benchmarks.incumbent import drivers
from oneagent.common.dynakube.api import conversion
from oneagent.common.injection import pod_annotations, skip_reasons
from oneagent.webhook import admission, validation
from oneagent.webhook.validation import injections
from tests.e2e.story import documented_commands
from tests.unit.common.oci.registries import REGISTRIES, counted

ROOT = Path(__file__).parents[3]
INJECTION = (ROOT / "docs/injection.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
CODE = re.compile(r"^```\w*\n.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
FLAGS_OF_OTHERS = {
    "--build-arg",
    "--certificate-identity",
    "--certificate-oidc-issuer",
    "--flag",
    "--logtostderr",
    "--register-with-taints",
    "--require",
    "--reuse-values",
    "--set",
    "--take-ownership",
    "--target",
    "--v",
    "--values",
    "--watch-progress-notify-interval",
}
PARSERS = generate.parsers()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(page: Path) -> str:
    """What is marked as code, each piece on lines of its own."""
    return "\n".join(CODE.findall(page.read_text()))


def objects_shown(page: Path, kind: str = "DynaKube") -> list[dict[str, Any]]:
    """The objects of a kind that a page shows whole, for `kubectl apply` or as a file."""
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```|<<EOF\n(.*?)^EOF", page.read_text(), re.DOTALL | re.MULTILINE)
    found = [manifest for file, stdin in blocks for manifest in yaml.load_all(file or stdin, yaml.CSafeLoader)]
    return [manifest for manifest in found if isinstance(manifest, dict) and manifest.get("kind") == kind]


def test_the_tables_of_flags_are_current() -> None:
    text = generate.FILE.read_text()
    assert generate.render(text) == text, "run: .venv/bin/python docs/generate.py"


def test_every_command_has_its_table() -> None:
    for name in PARSERS:
        assert f"<!-- flags of {name} -->" in generate.FILE.read_text()


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_metric_is_listed(registry: CollectorRegistry) -> None:
    text = (ROOT / "docs/metrics.md").read_text() + (ROOT / "docs/packages.md").read_text()
    for name in counted(registry):
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("page", ["metrics.md", "packages.md", "troubleshooting.md", "injection.md"])
def test_no_metric_is_named_that_is_not_counted(page: str) -> None:
    known = set[str]().union(*map(counted, REGISTRIES.values()))
    assert set(re.findall(r"oneagent_(?:csi|operator|webhook)_\w+", (ROOT / "docs" / page).read_text())) <= known


def test_every_reason_of_a_pod_that_is_left_as_it_is_is_explained_and_no_other() -> None:
    reasons = {skip.reason for skip in vars(skip_reasons).values() if isinstance(skip, skip_reasons.SkipReason)}
    undecided = {value for name, value in vars(admission.Reason).items() if not name.startswith("_")}
    section = INJECTION.partition("### Reasons")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(reasons | undecided - {admission.Reason.INVALID})


def test_every_annotation_that_is_read_or_written_is_explained() -> None:
    """Of several names of one thing the first has the line."""
    named = [
        value if isinstance(value, str) else value[0]
        for value in vars(pod_annotations).values()
        if isinstance(value, str | tuple)
    ]
    listed = [line for line in INJECTION.splitlines() if line.startswith("| `")]
    for key in named:
        if "dynatrace.com/" in key:
            assert any(line.startswith(f"| `{key}") for line in listed), key


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_headings_that_code_names_exist() -> None:
    """Of messages, docs/PAGE.md, "HEADING"; and of the commands that tests of a cluster take from a page."""
    messages = re.compile(r'(docs/[a-z-]+\.md), "([^"]+)"')
    folders = ("operator", "csi_driver", "webhook", "sidecars")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = [found for path in sources for found in messages.findall(path.read_text())]
    assert named
    for page, heading in named:
        assert f"\n## {heading}\n" in (ROOT / page).read_text(), heading
    calls = re.compile(r'blocks\(documented_commands\.(\w+), "([^"]+)"\)')
    taken = [call for path in (ROOT / "tests/e2e").rglob("*.py") for call in calls.findall(path.read_text())]
    assert len(taken) > 5
    for name, heading in taken:
        assert documented_commands.blocks(getattr(documented_commands, name), heading)


def test_the_readme_leads_to_every_page() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README or page.name == "index.md", page.name


def test_the_figures_of_the_readme_are_those_of_the_measurements() -> None:
    rows = [line for line in README.partition("## Measured")[2].partition("\n## ")[0].splitlines() if line[:1] == "|"]
    assert len(rows) > 3
    assert set(rows) <= set((ROOT / "docs/measurements.md").read_text().splitlines())


def test_the_dynatrace_operator_that_was_measured_is_the_one_that_is_built() -> None:
    for page in (ROOT / "README.md", ROOT / "docs/measurements.md"):
        assert f"| what | here | Dynatrace Operator {drivers.version()} |" in page.read_text(), page


def test_the_page_of_the_chart_is_current() -> None:
    assert values.page() == values.PAGE.read_text(), "run: .venv/bin/python docs/values.py"
    assert values.readme() == values.README.read_text(), "run: .venv/bin/python docs/values.py"


def test_every_value_of_the_chart_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(\S+)` \| .*? \| (.*) \|$", values.page(), re.MULTILINE)
    assert [name for name, meaning in rows if not meaning] == []
    for usual in values.USUAL:
        assert any(f".{name}".endswith(f".{usual}") for name, _ in rows), usual


@each_page
def test_values_of_the_chart_exist(page: Path) -> None:
    chart = yaml.load((values.CHART / "values.yaml").read_text(), yaml.CSafeLoader)
    for name in re.findall(rf"(?:`|--set )((?:{'|'.join(chart)})(?:\.[a-z][A-Za-z]*)+)(?=[`=\s])", page.read_text()):
        found = chart
        for key in name.split("."):
            assert key in found, name
            found = found[key]


@each_page
def test_flags_exist(page: Path) -> None:
    known = {option for parser in PARSERS.values() for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text())) - known <= FLAGS_OF_OTHERS


@each_page
def test_commands_and_files_exist(page: Path) -> None:
    shown = code(page)
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", shown)) <= {*targets}
    people = re.findall(r"(?<!install )(?<!upgrade )\boneagent-csi ([a-z]+)\b", shown)
    assert {f"oneagent-csi-{name}" for name in people} <= {*PARSERS}
    for path in re.findall(r"(?<![\w./:-])((?:docs|deploy(?!ment)|tests|benchmarks|examples)/[\w./-]*\w)", shown):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["docs/kind.md", "docs/opentelemetry.md", "docs/configuration.md"])
def test_an_opentelemetryinjection_that_is_shown_is_taken_without_a_warning(name: str) -> None:
    found = objects_shown(ROOT / name, "OpenTelemetryInjection")
    assert found
    for manifest in found:
        cluster = validation.ClusterState(own_namespace="dynatrace")
        assert injections.validate(manifest, None, cluster) == validation.ValidationResult()


@pytest.mark.parametrize("name", ["README.md", "docs/install.md", "docs/air-gap.md"])
def test_a_dynakube_that_is_shown_is_taken_without_a_warning(name: str) -> None:
    found = objects_shown(ROOT / name)
    assert found
    for manifest in found:
        assert (
            validation.validate(manifest, None, validation.ClusterState(own_namespace="dynatrace"))
            == validation.ValidationResult()
        )


def test_the_readme_installs_as_the_page_does() -> None:
    assert objects_shown(ROOT / "README.md") == objects_shown(ROOT / "docs/install.md")[:1]
    for command in re.findall(
        r"^(?:docker|helm|kubectl create|kubectl label namespace dynatrace) .*$", README, re.MULTILINE
    ):
        assert command in (ROOT / "docs/install.md").read_text(), command


def test_the_first_dynakube_selects_the_same_namespaces_in_an_older_version() -> None:
    commands, older = documented_commands.blocks(documented_commands.INSTALL, "The first DynaKube")
    newest = yaml.load(commands.partition("<<EOF\n")[2].partition("\nEOF\n")[0], yaml.CSafeLoader)
    converted = conversion.convert(yaml.load(older, yaml.CSafeLoader), newest["apiVersion"])
    mode = newest["spec"]["oneAgent"]["applicationMonitoring"]
    assert converted["spec"]["oneAgent"]["applicationMonitoring"] == {**mode, "useCSIDriver": True}
    assert converted["spec"]["apiUrl"] == newest["spec"]["apiUrl"]
    assert converted["spec"]["metadataEnrichment"]["enabled"]
