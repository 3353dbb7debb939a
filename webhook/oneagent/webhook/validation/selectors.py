"""Rules about selectors, and about nodes and namespaces that two DynaKubes must not both select.

Two selectors overlap for certain if one asks for all that the other asks for: then whatever fits the one fits the
other. Otherwise namespaces that are there decide; nodes are seen to by the operator, which knows them. What only
might overlap one day is no mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import fields, json_path
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.common.kubernetes import selectors
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation.context import Subject, modes, quoted, unusable

_WORD: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_KEY: Final = re.compile(rf"((?=.{{1,253}}/){_PREFIX}/)?{_WORD}")
_VALUE: Final = re.compile(rf"({_WORD})?")
_MOST_NAMED: Final = 3
_SHARING: Final = "multiple-osagents-on-node"


def selector_invalid(seen: Subject) -> Iterator[str]:
    for path in _namespace_selectors(seen.new):
        try:
            selector = selectors.parse(seen.new, path)
        except kubernetes_fields.FieldError as error:
            yield unusable(error)
            continue
        for requirement in selector.requirements:
            yield from _labels(path, requirement.key, sorted(requirement.values))
    for mode in seen.modes(fields.HOST_MODES):
        path = f"spec.oneAgent.{mode}.nodeSelector"
        for key, value in sorted((json_path.section(seen.new, path) or {}).items()):
            yield from _labels(path, key, [value])


def nodes_selected_twice(seen: Subject) -> Iterator[str]:
    if not (mine := seen.modes(fields.HOST_MODES)) or seen.flag(_SHARING).lower() == "true":
        return
    for other in seen.others():
        theirs = modes(other, fields.HOST_MODES)
        if theirs and any(_contain(_nodes(seen.new, a), _nodes(other, b)) for a in mine for b in theirs):
            yield (
                f"The DynaKube's host agents would run on nodes that have the host agent of the DynaKube "
                f"{_name(other)}. Make sure that the two have values of nodeSelector (spec.oneAgent.{mine[0]}"
                ".nodeSelector here) that no node has both of."
            )


def namespaces_selected_twice(seen: Subject) -> Iterator[str]:
    mine = _claim(seen.new, seen.known.own_namespace)
    if mine is None or not mine.selectors:
        return
    namespaces = seen.known.namespaces or {}
    covered = sorted(name for name, labels in namespaces.items() if mine.covers(name, labels))
    for other in seen.others():
        theirs = _claim(other, seen.known.own_namespace)
        if theirs is None:
            continue
        both = [name for name in covered if theirs.covers(name, namespaces[name])]
        if both or _overlap(mine, theirs):
            more = f" and {len(both) - _MOST_NAMED} more" if len(both) > _MOST_NAMED else ""
            shown = f" ({', '.join(both[:_MOST_NAMED])}{more})" if both else ""
            places = " and ".join(_namespace_selectors(seen.new))
            yield (
                f"The DynaKube selects namespaces{shown} that the DynaKube {_name(other)} selects too. Make sure that "
                f"no namespace fits the selectors of both; here that is {places}."
            )


def _namespace_selectors(manifest: Object) -> list[str]:
    """Their paths, as far as they count."""
    found = [f"spec.oneAgent.{mode}.namespaceSelector" for mode in modes(manifest, fields.INJECTING_MODES)]
    if json_path.look(dict(manifest), "spec.metadataEnrichment.enabled") is True:
        found.append("spec.metadataEnrichment.namespaceSelector")
    return found


def _labels(path: str, key: str, values: list[object] | list[str]) -> Iterator[str]:
    if not _KEY.fullmatch(key):
        yield (
            f"{path} has the key {quoted(key)}, which no label can have. Make sure that it reads name or "
            "example.com/name, with 63 characters at most in the name."
        )
    for value in values:
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            yield (
                f"{path} has the value {quoted(str(value))} for {quoted(key)}, which no label can have. Make sure that "
                "it has 63 letters, digits, '-', '_' and '.' at most, with a letter or digit at both ends."
            )


def _nodes(manifest: Object, mode: str) -> Mapping[str, object]:
    return json_path.section(dict(manifest), f"spec.oneAgent.{mode}.nodeSelector") or {}


def _contain(one: Mapping[str, object], two: Mapping[str, object]) -> bool:
    return one.items() <= two.items() or two.items() <= one.items()


def _claim(manifest: Object, own_namespace: str) -> namespace_mapping.Claim | None:
    """None if it cannot be read, which is another rule's, or another DynaKube's, concern."""
    try:
        return namespace_mapping.claim(manifest, own_namespace)
    except kubernetes_fields.FieldError:
        return None


def _overlap(one: namespace_mapping.Claim, two: namespace_mapping.Claim) -> bool:
    """For certain, whatever namespaces there will be. People may part namespaces by what each DynaKube ignores."""
    if one.ignored != two.ignored:
        return False
    asked = [(set(a.requirements), set(b.requirements)) for a in one.selectors for b in two.selectors]
    return any(a <= b or b <= a for a, b in asked)


def _name(manifest: Object) -> str:
    return quoted(str(json_path.look(dict(manifest), "metadata.name")))
