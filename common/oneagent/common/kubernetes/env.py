"""Environment variables of containers, as in their `env`."""

from __future__ import annotations

from typing import Any

Entry = dict[str, Any]


def literal(name: str, value: str) -> Entry:
    """Return a variable with a literal value, in which kubelet expands nothing."""
    return {"name": name, "value": value.replace("$", "$$")}


def field(name: str, path: str) -> Entry:
    """Return a variable with the value of a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
