"""A DynaKube of one version as one of another.

    convert(object, "dynatrace.com/v1beta1")

It goes through the newest version, by the table in `version_history`. Nothing is lost on the way there and back:
whatever the way back alone would not bring is carried in an annotation, `conversion.internal.dynatrace.com/VERSION`,
as a list of places with what conversion makes of them and what they really were. On return a place that still is what
conversion made of it gets its real value; one that a user has changed meanwhile keeps the change. So the moves need
not be exact inverses of each other, and a move that forgets something is no bug.

The API server converts whole lists, and one object that cannot be converted fails its list for all clients. So
everything that could be stored converts, however odd; `FieldError` is left for what the API server never accepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from oneagent.common import identifiers, typed_json
from oneagent.common.dynakube.api import json_path, schema, version_history
from oneagent.common.dynakube.api.change_kinds import Switched
from oneagent.common.dynakube.api.json_path import Tree
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS
from oneagent.common.kubernetes import fields

CARRIER: Final = "conversion.internal.dynatrace.com/"

_VERSIONS: Final = f"{identifiers.API_GROUP}/{VERSIONS[0]} to {NEWEST}"


class Difference(msgspec.Struct, frozen=True):
    """A place where the way back alone makes something else than there was; a missing value is unset."""

    at: list[str]
    made: Any = msgspec.UNSET
    was: Any = msgspec.UNSET


def convert(obj: Tree, to: str) -> Tree:
    """A new object of the API version `to`; `FieldError` for what is no DynaKube."""
    try:
        tree = json_path.copy_tree(obj)
        _check(tree)
        version, wanted = _version("apiVersion", tree.get("apiVersion")), _version("desiredAPIVersion", to)
        if version != wanted:
            if version != NEWEST:
                tree = _step(tree, version, NEWEST)
            if wanted != NEWEST:
                tree = _step(tree, NEWEST, wanted)
        return _tidied(tree)
    except (TypeError, ValueError, RecursionError) as error:
        raise fields.FieldError("the object", obj, "must be plain JSON, nested reasonably", hidden=True) from error


def to_newest(obj: Tree) -> Tree:
    """Convert an object to read it; `FieldError` also for a mode that is neither on nor off."""
    tree = convert(obj, f"{identifiers.API_GROUP}/{NEWEST}")
    for moves in version_history.MOVES.values():
        for move in moves:
            if isinstance(move, Switched) and fields.mapping(tree, move.old) is not None:
                fields.flag(tree, f"{move.old}.enabled")
    return tree


def carried_without_effect(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield version and place of each field of an older version that an object of the newest one only carries."""
    for version in VERSIONS[:-1]:
        for difference in _carried(json_path.get_value(tree, f"metadata.annotations[{CARRIER}{version}]")):
            place, was = ".".join(difference.at), difference.was
            is_off = isinstance(was, dict) and was.get("enabled") is False
            is_lost = difference.made is msgspec.UNSET and was is not msgspec.UNSET and bool(was) and not is_off
            if is_lost and place.startswith("spec.") and _has_field(version, place) and not _has_field(NEWEST, place):
                yield version, place


def _has_field(version: str, place: str) -> bool:
    return schema.get_section(version_history.described(version), place) is not None


def _step(tree: Tree, source: str, target: str) -> Tree:
    """From or to the newest version."""
    carried = _pop_carried(tree, target)
    _pop_carried(tree, source)
    original = json_path.copy_tree(tree)
    _move(tree, source, target)
    _restore(tree, carried)
    returned = json_path.copy_tree(tree)
    _move(returned, target, source)
    _carry(tree, source, returned, original)
    tree["apiVersion"] = f"{identifiers.API_GROUP}/{target}"
    return tree


def _move(tree: Tree, source: str, target: str) -> None:
    """Apply the moves of the table, and nothing else."""
    if target == NEWEST:
        for step in VERSIONS[VERSIONS.index(source) : -1]:
            for move in version_history.MOVES[step]:
                move.up(tree)
    else:
        for step in reversed(VERSIONS[VERSIONS.index(target) : -1]):
            for move in reversed(version_history.MOVES[step]):
                move.down(tree)


def _version(field: str, api_version: object) -> str:
    version = api_version.removeprefix(f"{identifiers.API_GROUP}/") if isinstance(api_version, str) else ""
    if version not in VERSIONS or version == api_version:
        raise fields.FieldError(field, api_version, f"must be {_VERSIONS}")
    return version


def _check(tree: Tree) -> None:
    if not isinstance(tree, dict):
        raise fields.FieldError("the object", tree, "must be a mapping of fields", hidden=True)
    if tree.get("kind") != "DynaKube":
        raise fields.FieldError("kind", tree.get("kind"), "must be DynaKube")
    for path in ("metadata", "metadata.annotations", "spec", "status"):
        if not isinstance(json_path.get_value(tree, path), dict | None):
            raise fields.FieldError(path, json_path.get_value(tree, path), "must be a mapping of fields", hidden=True)


def _tidied(tree: Tree) -> Tree:
    """Without a mapping of annotations that holds none; the API server does not keep it either."""
    if json_path.get_value(tree, "metadata.annotations") == {}:
        json_path.pop_value(tree, "metadata.annotations")
    return tree


def _carry(tree: Tree, version: str, made: Tree, was: Tree) -> None:
    found = list(_differences(_converted(made), _converted(was), []))
    if found:
        text = msgspec.json.encode(found, order="deterministic").decode()
        json_path.set_value(tree, f"metadata.annotations[{CARRIER}{version}]", text)


def _pop_carried(tree: Tree, version: str) -> list[Difference]:
    """Remove and return the values that are carried for a version; none of them if the annotation is invalid."""
    return _carried(json_path.pop_value(tree, f"metadata.annotations[{CARRIER}{version}]"))


def _carried(text: object) -> list[Difference]:
    try:
        return typed_json.decode(text, list[Difference]) if isinstance(text, str) else []
    except (msgspec.DecodeError, RecursionError):
        return []


def _restore(tree: Tree, carried: list[Difference]) -> None:
    for difference in carried:
        holder = _holder(tree, difference.at)
        if holder is None or not json_path.same(holder.get(difference.at[-1], msgspec.UNSET), difference.made):
            continue
        if difference.was is msgspec.UNSET:
            holder.pop(difference.at[-1], None)
        else:
            holder[difference.at[-1]] = difference.was


def _holder(tree: Tree, way: list[str]) -> Tree | None:
    """The mapping that a place is in, if it is there and in a part of the object that is converted."""
    if way[:2] == ["metadata", "annotations"] and len(way) == 3:
        if json_path.section(tree, "metadata.annotations") is None:
            json_path.set_value(tree, "metadata.annotations", {})
    elif way[:1] not in (["spec"], ["status"]):
        return None
    here: Any = tree
    for key in way[:-1]:
        here = here.get(key) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else None


def _converted(tree: Tree) -> Tree:
    """The parts of an object that conversion may change."""
    annotations = json_path.section(tree, "metadata.annotations") or {}
    return {"metadata": {"annotations": annotations}} | {key: tree[key] for key in ("spec", "status") if key in tree}


def _differences(made: Tree, was: Tree, way: list[str]) -> Iterator[Difference]:
    for key in sorted(made.keys() | was.keys()):
        here, one, other = [*way, key], made.get(key, msgspec.UNSET), was.get(key, msgspec.UNSET)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, here)
        elif not json_path.same(one, other):
            yield Difference(here, one, other)


typed_json.prepare(list[Difference])
