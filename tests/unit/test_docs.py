"""What the documentation says of flags, metrics and files is true of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs import generate
from prometheus_client import CollectorRegistry

from oneagent.webhook import admission
from oneagent.webhook.injection import keys, skips
from tests.unit.registries import REGISTRIES, counted

ROOT = Path(__file__).parents[2]
INJECTION = (ROOT / "docs/injection.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tables_of_flags_are_current() -> None:
    text = generate.FILE.read_text()
    assert generate.render(text) == text, "run: .venv/bin/python docs/generate.py"


def test_every_command_has_its_table() -> None:
    for name in generate.parsers():
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
    reasons = {skip.reason for skip in vars(skips).values() if isinstance(skip, skips.Skip)}
    undecided = {value for name, value in vars(admission.Reason).items() if not name.startswith("_")}
    section = INJECTION.partition("### Reasons")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(reasons | undecided - {admission.Reason.INVALID})


def test_every_annotation_that_is_read_or_written_is_explained() -> None:
    """Of several names of one thing the first has the line."""
    named = [
        value if isinstance(value, str) else value[0] for value in vars(keys).values() if isinstance(value, str | tuple)
    ]
    listed = [line for line in INJECTION.splitlines() if line.startswith("| `")]
    for key in named:
        if "dynatrace.com/" in key:
            assert any(line.startswith(f"| `{key}") for line in listed), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
