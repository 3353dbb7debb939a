"""Checks of YAML against descriptions of objects, and of values against the chart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common.dynakube.api import schema

_TYPES: Final[Mapping[str, type]] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


def faults(value: Any, described: schema.Schema, path: str = "") -> Iterator[str]:
    """Deviations of a value from its description; fields that are not described are one, too."""
    if described.get(schema.INT_OR_STRING):
        if not isinstance(value, int | str):
            yield f"{path}: {value!r} is no integer or string"
        return
    kind = described["type"]
    if not _is(value, kind):
        yield f"{path}: {value!r} is no {described['type']}"
        return
    if "enum" in described and value not in described["enum"]:
        yield f"{path}: {value!r} is none of {described['enum']}"
    if "pattern" in described and not re.search(described["pattern"], value):
        yield f"{path}: {value!r} does not match {described['pattern']}"
    yield from (f"{path}.{key} is missing" for key in described.get("required", ()) if key not in value)
    if kind == "array":
        for number, item in enumerate(value):
            yield from faults(item, described["items"], f"{path}[{number}]")
    if kind == "object":
        yield from _faults_of_fields(value, described, path)


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (kind == "integer" and isinstance(value, bool))


def _faults_of_fields(value: Mapping[str, Any], described: schema.Schema, path: str) -> Iterator[str]:
    known, others = described.get("properties", {}), described.get("additionalProperties")
    for key, inner in value.items():
        if key in known:
            yield from faults(inner, known[key], f"{path}.{key}")
        elif others is not None:
            yield from faults(inner, others, f"{path}.{key}")
        elif path not in ("", ".metadata"):
            yield f"{path}.{key} is not known"


def unknown_values(chosen: Mapping[str, Any], chart: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Values that the chart does not have. An empty mapping of the chart is its user's."""
    for key, inner in chosen.items():
        name = f"{path}.{key}".lstrip(".")
        if key not in chart:
            yield name
        elif isinstance(inner, dict) and chart[key]:
            yield from unknown_values(inner, chart[key], name)
