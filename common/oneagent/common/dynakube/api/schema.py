"""Building blocks of field descriptions, and paths in a tree of them.

A description is an OpenAPI schema in the form that Kubernetes takes in a CRD. It is plain data and says only what
is known; that the API server has to keep the rest is added by `preserving`, so that `unknown` can tell it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common.dynakube.api import json_path

Schema = dict[str, Any]

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
RULES: Final = "x-kubernetes-validations"


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def switch(description: str, **more: Any) -> Schema:
    return {"type": "boolean", "description": description, **more}


def number(description: str, **more: Any) -> Schema:
    return {"type": "integer", "description": description, **more}


def moment(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def section(description: str, fields: Mapping[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "description": description, **more, "properties": dict(fields)}


def anything(description: str) -> Schema:
    """A section whose content is not looked into."""
    return {"type": "object", "description": description, PRESERVE: True}


def table(description: str, values: Schema, **more: Any) -> Schema:
    """A mapping whose keys are the user's."""
    return {"type": "object", "description": description, **more, "additionalProperties": values}


def listing(description: str, item: Schema, **more: Any) -> Schema:
    return {"type": "array", "description": description, **more, "items": item}


def rule(expression: str, message: str) -> Schema:
    """Return a CEL rule with the API server's message for a violation."""
    return {"rule": expression, "message": message}


def get_field(schema: Schema, path: str) -> Schema | None:
    return json_path.section(schema, _below(path))


def get_section(schema: Schema, path: str) -> Schema | None:
    """Return the description of what a path of an object leads to, such as `spec.tolerations[0]`; None if unknown."""
    here: Schema | None = schema
    for key in re.sub(r"\[[0-9]+\]", ".[]", path).split(".") if path else ():
        if here is None:
            break
        known = here.get("properties", {})
        here = here.get("items") if key == "[]" else known.get(key, here.get("additionalProperties"))
    return here


def set_field(schema: Schema, path: str, field: Schema) -> None:
    json_path.set_value(schema, _below(path), field)


def pop_field(schema: Schema, path: str) -> Schema | None:
    """Remove the description of a field."""
    taken: Schema | None = json_path.pop_value(schema, _below(path))
    return taken


def _below(path: str) -> str:
    return "properties." + ".properties.".join(json_path.keys(path))


def fields(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Every described field by its path, sections before what they hold; `[]` after a list, `.*` in a mapping."""
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path, field
        yield from fields(field, path)
        for step, inner in (("[]", field.get("items")), (".*", field.get("additionalProperties"))):
            if inner:
                yield from fields(inner, path + step)


def unknown(schema: Schema, value: object, path: str = "") -> Iterator[str]:
    """Paths of what an object has and its description has not, such as `spec.oneAgent.hostGrup`."""
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from unknown(schema["items"], item, f"{path}[{index}]")
    described, values = schema.get("properties", {}), schema.get("additionalProperties")
    if not isinstance(value, dict) or not (described or values):
        return
    for key, item in value.items():
        here = f"{path}.{key}" if path else str(key)
        if field := described.get(key, values):
            yield from unknown(field, item, here)
        else:
            yield here


def preserving(schema: Schema) -> Schema:
    """The same with every section open to what it does not describe."""
    found: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            found[PRESERVE] = True
            found[key] = {name: preserving(field) for name, field in value.items()}
        elif key in ("items", "additionalProperties"):
            found[key] = preserving(value)
        else:
            found[key] = value
    return found
