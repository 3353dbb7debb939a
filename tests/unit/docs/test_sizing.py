"""The page on sizing: its figures are those of the chart and of the measurements, or follow from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from docs import values

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGE: Final = (DOCS / "sizing.md").read_text()
CHART: Final[dict[str, Any]] = yaml.load((values.CHART / "values.yaml").read_text(), yaml.CSafeLoader)
NODES: Final = (10, 100, 1000, 5000)
DRIVER: Final = ("server", "provisioner", "registrar", "livenessprobe")

_SOURCES: Final = {name: (DOCS / f"{name}.md").read_text() for name in ("measurements", "scale", "agents", "packages")}
_QUOTED: Final = [
    (
        "measurements",
        "resident memory when idle: server, provisioner",
        "39, 36, 20, 19 MiB",
        "39 MiB|36 MiB|20 MiB|19 MiB",
    ),
    ("measurements", "additional memory for unpacking: a zip, an image", "9, 9 MiB", "unpacking adds 9 MiB"),
    ("measurements", "resident memory of the operator: idle", "97, 142 MiB", "97 MiB|142 MiB|45 MiB"),
    ("measurements", "resident memory of the webhook with 5,000", "55 MiB", "55 MiB"),
    ("measurements", "four processes on a node, in a cluster", "85 MiB", "four processes of a node use 85 MiB"),
    ("measurements", "the same of the operator, and of both", "75, 76 MiB", "75 MiB|76 MiB"),
    ("measurements", "processor time in 20 s", "0.06, 0.01, 0.03 s", "0.06 s of CPU time in 20 s"),
    ("measurements", "additional disk space", "10.1 %", "10.1 %"),
    ("measurements", "50 pods", "2 MiB in 500", "2 MiB and 500 for 50 pods|41 KiB and 10 files"),
    ("measurements", "with copies", "in 498,000", "498,000"),
    ("measurements", "A package of 227 MB", "600 MB", "600 MB"),
    ("measurements", "admissions of a 10 KB pod", "3,200", "3,200"),
    ("measurements", "| 100 | 45 s, the default", "47 s", "47 s"),
    ("measurements", "| 1,000 | 45 s", "108 | 143 s | 240 s", "240 s|instead of 108"),
    ("measurements", "| 1,000 | 10 min", "18 | 315 s | 595 s", "18 instead|595 s"),
    ("measurements", "| 5,000 | 45 s", "658 | 604 s | 1,224 s", "658|1,224 s"),
    ("measurements", "| 5,000 | 10 min", "282 |", "282"),
    ("measurements", "300 MB", "300 MB", "300 MB version"),
    ("measurements", "questions to the tenant for a new DynaKube", "8, 8", "| 8 | 8 | 8 | 8 |"),
    ("measurements", "requests of an idle node an hour", "2.7; 15", "2.7 a node and hour|15 a node and hour"),
    ("scale", "progress-notify-interval", "5s", "--watch-progress-notify-interval=5s"),
    ("agents", "130 MB", "130 MB in 8,300 files", "130 MB in 8,300 files"),
    ("packages", "concurrent transfers", "64", "64 packages at once"),
]
"""A line of a page, found by a part of it, its figures, and the texts here that quote them."""


def row(title: str) -> list[str]:
    """Cells after the first one of a table's row."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def mebibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def resources(name: str) -> dict[str, Any]:
    part = CHART["csidriver"][name] if name in DRIVER else CHART[name]
    return dict(part["resources"])


@pytest.mark.parametrize(("source", "found_by", "figures", "quotes"), _QUOTED, ids=lambda text: text[:30])
def test_figures_are_those_of_the_page_that_they_come_from(
    source: str, found_by: str, figures: str, quotes: str
) -> None:
    assert [line for line in _SOURCES[source].splitlines() if found_by in line and figures in line]
    for quote in [quotes] if quotes.startswith("|") else quotes.split("|"):
        assert quote in PAGE, quote


@pytest.mark.parametrize("name", [*DRIVER, "operator", "webhook"])
def test_requests_and_limits_are_the_charts(name: str) -> None:
    requests, limit, _ = row(f"`{name}`")
    given = resources(name)
    assert requests == f"{given['requests']['cpu']}, {given['requests']['memory']}"
    assert limit == given["limits"]["memory"]
    assert "cpu" not in given["limits"]


def test_the_sums_for_a_cluster_follow_from_those_of_a_node() -> None:
    requested = sum(mebibytes(resources(name)["requests"]["memory"]) for name in DRIVER)
    cores = sum(int(resources(name)["requests"]["cpu"].removesuffix("m")) for name in DRIVER)
    assert row(f"memory that it requests, {requested} MiB a node") == [_gibibytes(requested * n) for n in NODES]
    assert row("memory that the driver uses, 85 MiB a node") == [_gibibytes(85 * n) for n in NODES]
    assert row(f"cores that it requests, {cores}m a node") == [f"{cores * n / 1000:g}" for n in NODES]
    assert f"{requested} MiB of requests weigh" in PAGE
    assert f"which is {100 * 0.06 / 20:.1f} % of a core" in PAGE


def test_requests_to_the_api_server_follow_from_those_of_a_node() -> None:
    assert row("requests to the API server when idle") == [_rate(2.7 * n) for n in NODES]
    assert row("the same where etcd reports no progress") == [_rate(15 * n) for n in NODES]


def test_downloads_are_the_packages_size_for_each_node_or_once() -> None:
    assert row("download of a 300 MB version") == [f"{300 * n / 1000:,.0f} GB" for n in NODES]
    assert row("the same with `packages.mirror`") == ["0.3 GB"] * 4


def test_a_pods_share_follows_from_that_of_fifty() -> None:
    assert f"{2 * 1024 / 50:.0f} KiB and {500 // 50} files and directories" in PAGE


def test_defaults_of_flags_are_those_of_the_command() -> None:
    table = (DOCS / "configuration.md").read_text()
    for flag, default in (
        ("gc-interval", "5m"),
        ("log-budget", "1Gi"),
        ("log-retention", "168h"),
        ("disk-reserve", "256Mi"),
    ):
        assert re.search(rf"\| `--{flag}` \| `\w+` \| `{default}` \|", table)
        assert f"`{flag}`" in PAGE


def _gibibytes(mebibytes: float) -> str:
    size = mebibytes / 1024
    return f"{size:.1f} GiB" if size < 10 else f"{size:.0f} GiB"


def _rate(an_hour: float) -> str:
    return f"{an_hour:.0f} an hour" if an_hour < 1000 else f"{an_hour / 3600:.1f} a second"
