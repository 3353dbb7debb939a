"""What the documentation says of flags, metrics and files is true of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs import generate
from prometheus_client import CollectorRegistry

from oneagent.csi_driver.metrics import ServerMetrics
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tables_of_flags_are_current() -> None:
    text = generate.FILE.read_text()
    assert generate.render(text) == text, "run: .venv/bin/python docs/generate.py"


def test_every_command_has_its_table() -> None:
    for name in generate.parsers():
        assert f"<!-- flags of {name} -->" in generate.FILE.read_text()


@pytest.mark.parametrize(
    "registry", [ServerMetrics().registry, ProvisionerMetrics().registry], ids=["server", "provisioner"]
)
def test_every_metric_is_listed(registry: CollectorRegistry) -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    known = {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}
    for name in known:
        assert f"| `{name}` |" in text


def test_no_metric_is_listed_that_is_not_counted() -> None:
    families = [family for metrics in (ServerMetrics(), ProvisionerMetrics()) for family in metrics.registry.collect()]
    known = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert set(re.findall(r"oneagent_csi_\w+", (ROOT / "docs/metrics.md").read_text())) <= known


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
