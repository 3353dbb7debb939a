"""Values at paths of a JSON object that is being changed.

A path is written as in messages to people: `spec.oneAgent.hostGroup`, and `metadata.annotations[dynatrace.com/x]`
for a last key that has dots of its own.
"""

from __future__ import annotations

import json
from typing import Any, Final

from oneagent.common.kubernetes import fields

Tree = dict[str, Any]

ROOTS: Final = frozenset({"metadata", "spec", "status"})
"""Sections of every object; never removed, however empty."""


def keys(path: str) -> list[str]:
    if path.endswith("]"):
        parent_keys, _, last = path[:-1].partition("[")
        return [*parent_keys.split("."), last]
    return path.split(".")


def get_value(tree: Tree, path: str) -> Any:
    """Return the value; `None` if it is missing, or if the path leads through anything but mappings."""
    node: Any = tree
    for key in keys(path):
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def section(tree: Tree, path: str) -> Tree | None:
    value = get_value(tree, path)
    return value if isinstance(value, dict) else None


def set_value(tree: Tree, path: str, value: Any) -> None:
    """Place a value, whatever was there. `FieldError` where a part of the way is neither a mapping nor missing."""
    *parent_keys, last = keys(path)
    node = tree
    for depth, key in enumerate(parent_keys):
        if node.get(key) is None:
            node[key] = {}
        if not isinstance(node[key], dict):
            where = ".".join(parent_keys[: depth + 1])
            raise fields.FieldError(where, node[key], "must be a mapping of fields", hidden=True)
        node = node[key]
    node[last] = value


def pop_value(tree: Tree, path: str, *, tidy: bool = False) -> Any:
    """Remove and return the value, or `None`. `tidy` also removes sections that became empty."""
    parent_keys = keys(path)
    parents = [tree]
    for key in parent_keys[:-1]:
        value = parents[-1].get(key)
        if not isinstance(value, dict):
            return None
        parents.append(value)
    value = parents[-1].pop(parent_keys[-1], None)
    while tidy and len(parents) > 1 and not parents[-1] and parent_keys[len(parents) - 2] not in ROOTS:
        parents.pop()
        del parents[-1][parent_keys[len(parents) - 1]]
    return value


def copy_tree(tree: Tree) -> Tree:
    """A copy that shares nothing; `ValueError` or `TypeError` for what JSON cannot say."""
    copy: Tree = json.loads(json.dumps(tree, allow_nan=False))
    return copy


def same(one: Any, other: Any) -> bool:
    """Return True if two values are the same JSON. Python's own comparison takes `1`, `1.0` and `true` for equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
