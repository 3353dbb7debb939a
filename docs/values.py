"""Writes values.md, what can be chosen of the chart, from the chart itself: `python docs/values.py`.

The chart's `values.yaml` is the one place for a value's default and meaning: the comment above a key is what is
written here. Where Kubernetes itself has given a key its meaning the chart says nothing, and it is told here. The
schema adds what is allowed. A test compares the page with what this would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

PAGE: Final = Path(__file__).with_name("values.md")
CHART: Final = Path(__file__).parents[1] / "deploy" / "helm" / "oneagent-csi"

USUAL: Final = {
    "affinity": "As in a pod.",
    "certificates.certManager.duration": "Lifetime of the webhook's certificate.",
    "certificates.certManager.renewBefore": "Time before its expiry when it is renewed.",
    "flags": "Flags of its command, see [configuration](configuration.md).",
    "image.repository": "Repository of the image, with its registry.",
    "interval": "Scrape interval.",
    "labels": "Labels of the objects, for selectors.",
    "limits": "As in a container.",
    "nodeSelector": "As in a pod.",
    "podAnnotations": "Additional annotations of its pods.",
    "podLabels": "Additional labels of its pods.",
    "priorityClass.name": "Its name.",
    "priorityClass.value": "Its priority.",
    "priorityClassName": "As in a pod.",
    "pullPolicy": "As in a container.",
    "requests": "As in a container.",
    "tolerations": "As in a pod.",
    "webhook.replicas": "Number of replicas. All of them serve.",
}
"""Descriptions of values without a comment in the chart, by path or by last name."""

_HEAD: Final = """\
# Values of the chart

Everything that can be chosen with `helm install --set` or `--values`. Names of objects can't be: the parts know each
other by them, and a cluster has one installation. A value that does not exist is refused with its name.

This page is written by `python docs/values.py` from the chart, and a test fails when it is out of date.
"""


def page() -> str:
    """The whole page."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return _HEAD + "".join(_section(key, value, text, schema) for key, value in root.value)


def _section(key: yaml.ScalarNode, value: yaml.Node, text: str, schema: dict[str, Any]) -> str:
    about = _comment(key, text) if _is_section(value) else ""
    lines = [("value", "default", "meaning"), ("---", "---", "---"), *_rows("", key, value, text, _Allowed(schema))]
    table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return f"\n## {key.value}\n\n" + (f"{about}\n\n" if about else "") + table


def _rows(
    before: str, key: yaml.ScalarNode, value: yaml.Node, text: str, allowed: _Allowed
) -> Iterator[tuple[str, str, str]]:
    path = f"{before}.{key.value}".removeprefix(".")
    comment = _comment(key, text)
    below = allowed.below(key.value)
    if not _is_section(value):
        meaning = comment or USUAL.get(path) or USUAL.get(key.value, "")
        yield f"`{path}`", _default(value, text), f"{meaning} {below}".strip()
        return
    if before and comment:
        yield f"`{path}`", "", comment
    for name, child in value.value:
        yield from _rows(path, name, child, text, below)


def _is_section(value: yaml.Node) -> bool:
    """A mapping that is written line by line; one in braces is a value."""
    return isinstance(value, yaml.MappingNode) and not value.flow_style


def _comment(key: yaml.ScalarNode, text: str) -> str:
    """The lines above a key that are comments, as one sentence or more."""
    found: list[str] = []
    for line in reversed(text.splitlines()[: key.start_mark.line]):
        if not line.lstrip().startswith("#"):
            break
        found.append(line.lstrip(" #"))
    return " ".join(reversed(found))


def _default(value: yaml.Node, text: str) -> str:
    if isinstance(value, yaml.CollectionNode) and not value.flow_style:
        # A list of several lines, as one.
        written = yaml.safe_dump(yaml.safe_load(yaml.serialize(value)), default_flow_style=True, width=1000).strip()
    else:
        written = text[value.start_mark.index : value.end_mark.index]
    return "" if written == '""' else f"`{written}`"


class _Allowed:
    """What the schema says of a value; as text, of one with a few possible values only."""

    def __init__(self, whole: dict[str, Any], here: dict[str, Any] | None = None) -> None:
        self._whole = whole
        self._here = whole if here is None else here

    def below(self, name: str) -> _Allowed:
        here = self._here.get("properties", {}).get(name, {})
        while "$ref" in here:
            here = self._whole["definitions"][here["$ref"].rpartition("/")[2]]
        return _Allowed(self._whole, here)

    def __str__(self) -> str:
        values = self._here.get("enum", [])
        return f"One of {', '.join(f'`{value}`' for value in values)}." if values else ""


if __name__ == "__main__":
    PAGE.write_text(page())
