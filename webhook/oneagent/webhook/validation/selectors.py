"""Rules about selectors, and about nodes and namespaces that two DynaKubes must not both select.

Two selectors certainly overlap if one has all requirements of the other: every object that matches the first then
matches the second. Otherwise existing namespaces decide; the operator checks nodes, which it watches. Selectors that
only might overlap later are valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from oneagent.common import identifiers
from oneagent.common.agents import objects
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import fields, json_path
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.common.kubernetes import labels, selectors
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation.context import ValidationContext, describe_field_error, modes, quote

_MAX_NAMED: Final = 3
_SHARING: Final = "multiple-osagents-on-node"


def selector_invalid(ctx: ValidationContext) -> Iterator[str]:
    for path in _namespace_selectors(ctx.new):
        try:
            selector = selectors.parse(ctx.new, path)
        except kubernetes_fields.FieldError as error:
            yield describe_field_error(error)
            continue
        for requirement in selector.requirements:
            yield from _label_faults(path, requirement.key, sorted(requirement.values))
    for mode in ctx.modes(fields.HOST_MODES):
        path = f"spec.oneAgent.{mode}.nodeSelector"
        for key, value in sorted((json_path.section(ctx.new, path) or {}).items()):
            yield from _label_faults(path, key, [value])


def nodes_overlap(ctx: ValidationContext) -> Iterator[str]:
    if not (mine := ctx.modes(fields.HOST_MODES)) or ctx.flag(_SHARING).lower() == "true":
        return
    for other in ctx.other_dynakubes():
        theirs = modes(other, fields.HOST_MODES)
        pairs = ((_node_selector(ctx.new, a), _node_selector(other, b)) for a in mine for b in theirs)
        if any(_one_contains_other(*pair) for pair in pairs):
            yield (
                f"spec.oneAgent.{mine[0]}.nodeSelector selects nodes that have the host agent of the DynaKube "
                f"{_name(other)}. Make sure that no node matches the nodeSelector of both."
            )


def namespaces_overlap(ctx: ValidationContext) -> Iterator[str]:
    mine = _claim_or_none(ctx.new, ctx.cluster.own_namespace)
    if mine is None or not mine.selectors:
        return
    namespaces = ctx.cluster.namespaces or {}
    covered = sorted(name for name, labels in namespaces.items() if mine.covers(name, labels))
    for other in ctx.other_dynakubes():
        theirs = _claim_or_none(other, ctx.cluster.own_namespace)
        if theirs is None:
            continue
        both = [name for name in covered if theirs.covers(name, namespaces[name])]
        if both or _certainly_overlap(mine, theirs):
            more = f" and {len(both) - _MAX_NAMED} more" if len(both) > _MAX_NAMED else ""
            shown = f" ({', '.join(both[:_MAX_NAMED])}{more})" if both else ""
            places = " and ".join(_namespace_selectors(ctx.new))
            yield (
                f"The {_kind(ctx.new)} selects namespaces{shown} that the {_kind(other)} {_object_name(other)} selects "
                f"too. Make sure that no namespace matches the selectors of both; here that is {places}."
            )


def _kind(manifest: Object) -> str:
    return str(manifest.get("kind") or "DynaKube")


def _object_name(manifest: Object) -> str:
    return quote(objects.name_of(str(json_path.get_value(dict(manifest), "metadata.name"))))


def _namespace_selectors(manifest: Object) -> list[str]:
    """Return the paths of namespace selectors that have an effect."""
    if _kind(manifest) == identifiers.INJECTION_KIND:
        return ["spec.namespaceSelector"]
    paths = [f"spec.oneAgent.{mode}.namespaceSelector" for mode in modes(manifest, fields.INJECTING_MODES)]
    if json_path.get_value(dict(manifest), "spec.metadataEnrichment.enabled") is True:
        paths.append("spec.metadataEnrichment.namespaceSelector")
    return paths


def _label_faults(path: str, key: str, values: list[object] | list[str]) -> Iterator[str]:
    if not labels.is_key(key):
        yield (
            f"{path} has the key {quote(key)}, which is not a valid label key. Make sure that it reads "
            f"{labels.KEY_FORM}."
        )
    for value in values:
        if not labels.is_value(value):
            yield (
                f"{path} has the value {quote(str(value))} for {quote(key)}, which is not a valid label value. Make "
                f"sure that it has {labels.VALUE_FORM}."
            )


def _node_selector(manifest: Object, mode: str) -> Mapping[str, object]:
    return json_path.section(dict(manifest), f"spec.oneAgent.{mode}.nodeSelector") or {}


def _one_contains_other(one: Mapping[str, object], two: Mapping[str, object]) -> bool:
    return one.items() <= two.items() or two.items() <= one.items()


def _claim_or_none(manifest: Object, own_namespace: str) -> namespace_mapping.Claim | None:
    """Return a DynaKube's claim; None if it is invalid, which another rule reports."""
    try:
        return namespace_mapping.claim(manifest, own_namespace)
    except kubernetes_fields.FieldError:
        return None


def _certainly_overlap(one: namespace_mapping.Claim, two: namespace_mapping.Claim) -> bool:
    """Compare requirements only. Different lists of ignored namespaces may keep two DynaKubes apart."""
    if one.ignored != two.ignored:
        return False
    pairs = [(set(a.requirements), set(b.requirements)) for a in one.selectors for b in two.selectors]
    return any(a <= b or b <= a for a, b in pairs)


def _name(manifest: Object) -> str:
    return quote(str(json_path.get_value(dict(manifest), "metadata.name")))
