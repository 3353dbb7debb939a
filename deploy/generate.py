"""Writes what follows from the model of the DynaKube API: `python deploy/generate.py`.

crd.yaml, and the tables in docs/dynakube.md, whose text is written by hand: a table stands between
`<!-- NAME -->` and `<!-- end -->`. A test compares the files with what this would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common.api import crd, features, fields, moves, schema

CRD: Final = Path(__file__).with_name("crd.yaml")
PAGE: Final = Path(__file__).parents[1] / "docs" / "dynakube.md"

_MODE: Final = re.compile(rf"oneAgent\.({'|'.join(fields.MODES)})\.")
_KUBERNETES: Final = re.compile(r"\[\]|\*|\.(requests|limits|matchLabels|matchExpressions)$")
_TABLE: Final = re.compile(r"(<!-- (fields|status|flags) -->\n).*?(<!-- end -->)", re.DOTALL)


class _Dumper(yaml.SafeDumper):
    """Without aliases, which not every reader of manifests knows."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd_yaml() -> str:
    head = "# Written by deploy/generate.py from common/oneagent/common/api.\n"
    webhook = crd.service("dynatrace", "oneagent-webhook", "/convert")
    return head + yaml.dump(crd.manifest(webhook), Dumper=_Dumper, sort_keys=False, width=120)


def page() -> str:
    tables = {
        "fields": lambda: _table(("field", "type", "meaning"), _fields("spec")),
        "status": lambda: _table(("field", "type", "meaning"), _fields("status")),
        "flags": lambda: _table(("flag", "default", "in its place"), _flags()),
    }
    return _TABLE.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n{match[3]}", PAGE.read_text())


def _fields(part: str) -> Iterator[tuple[str, ...]]:
    """The fields of a part of the newest version. What modes have in common stands once."""
    rows: dict[tuple[str, str], schema.Schema] = {}
    for path, field in schema.fields(moves.described(fields.NEWEST)):
        if path.startswith(f"{part}.") and not _KUBERNETES.search(path):
            rows.setdefault((_MODE.sub("oneAgent.MODE.", path), field["description"]), field)
    for (path, description), field in rows.items():
        default = f" Default: `{json.dumps(field['default'])}`." if "default" in field else ""
        yield f"`{path}`", _kind(field), description + default


def _kind(field: schema.Schema) -> str:
    names = {"array": "list", "object": "section" if "properties" in field else "mapping", "boolean": "switch"}
    kind = str(field["type"])
    return names.get(kind, kind)


def _flags() -> Iterator[tuple[str, ...]]:
    for feature in sorted(features.FEATURES.values(), key=lambda feature: feature.name):
        if feature.handled:
            default = f"`{feature.default}`" if feature.default else ""
            yield f"`{feature.name}`", default, f"`{feature.instead}`" if feature.instead else ""


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


FILES: Final[Mapping[Path, Callable[[], str]]] = {CRD: crd_yaml, PAGE: page}

if __name__ == "__main__":
    for path, render in FILES.items():
        path.write_text(render())
