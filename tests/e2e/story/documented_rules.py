"""Fields that GitOps tools are to ignore, from the documentation's text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

PAGE: Final = Path("docs/gitops.md").read_text()

Rule = tuple[str, str, str]
"""Kind and name of an object, and a field: `webhooks[].clientConfig.caBundle`."""

_BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW: Final = re.compile(r"^\| (\w+) `([^`]+)`[^|]*\| `([^`]+)` \|", re.MULTILINE)


def sample(kind: str) -> dict[str, Any]:
    """The object of a kind that the page shows."""
    found = (one for block in _BLOCK.findall(PAGE) for one in yaml.load_all(block, yaml.CSafeLoader))
    (one,) = (one for one in found if one["kind"] == kind)
    return dict(one)


def table() -> frozenset[Rule]:
    section = PAGE.partition("## Fields that the operator writes")[2].partition("\n## ")[0]
    return frozenset(_ROW.findall(section))


def argo_cd() -> frozenset[Rule]:
    return frozenset(
        (rule["kind"], rule["name"], _field(path))
        for rule in sample("Application")["spec"]["ignoreDifferences"]
        for path in (*rule.get("jqPathExpressions", ()), *rule.get("jsonPointers", ()))
    )


def flux() -> Iterator[tuple[str, str, str]]:
    """With the pointers as they are: they have the numbers of webhooks."""
    for rule in sample("HelmRelease")["spec"]["driftDetection"]["ignore"]:
        for path in rule["paths"]:
            yield rule["target"]["kind"], rule["target"]["name"], path


def _field(path: str) -> str:
    """A field's name from a path of jq or a JSON pointer."""
    return path.replace("[]?", "[]").replace("/", ".").removeprefix(".")
