"""Rules of a namespace for its containers' resources, and whether an added init container keeps them.

The API server applies them after all webhooks, and refuses the whole pod for one container. A LimitRange has bounds for
each container, and defaults for one that has no resources of its own. A quota, and a LimitRange's bounds for whole
pods, are kept for certain if the init container adds nothing: it ends before the others start, so Kubernetes counts the
larger of it and all of them together. What a quota has left is not compared, since it changes with every pod.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from oneagent.common import typed_json
from oneagent.common.kubernetes import quantities

Key = tuple[str, str]
"""`requests` or `limits`, and the resource"""
Amounts = dict[Key, Decimal]

_SECTIONS: Final = ("requests", "limits")
_DEMANDED: Final = ("cpu", "memory")
"""Resources that each container must name if a quota has them"""
_CLASSES: Final = ("BestEffort", "NotBestEffort")


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one LimitRange or quota."""

    least: Mapping[str, Decimal]
    """By resource, of a container's request"""
    most: Mapping[str, Decimal]
    """By resource, of a container's limit"""
    ratio: Mapping[str, Decimal]
    """By resource, of a container's limit to its request"""
    defaults: Mapping[Key, Decimal]
    totals: frozenset[Key]
    """Bounded for the pod as a whole"""
    demanded: frozenset[Key]
    """Each container must have them"""
    by_class: bool
    """They hold for pods of the class BestEffort only, or for all others"""


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    type: str = ""
    min: dict[str, Any] = {}
    max: dict[str, Any] = {}
    default: dict[str, Any] = {}
    default_request: dict[str, Any] = {}
    max_limit_request_ratio: dict[str, Any] = {}


class _RangeSpec(msgspec.Struct, frozen=True):
    limits: list[_Item] = []


class _Range(msgspec.Struct, frozen=True):
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class _Scope(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="scopeName", default="")


class _Selector(msgspec.Struct, frozen=True):
    scopes: list[_Scope] = msgspec.field(name="matchExpressions", default_factory=list)


class _QuotaSpec(msgspec.Struct, frozen=True):
    hard: dict[str, Any] = {}
    scopes: list[str] = []
    selector: _Selector = msgspec.field(name="scopeSelector", default=_Selector())


class _Quota(msgspec.Struct, frozen=True):
    spec: _QuotaSpec = _QuotaSpec()


def read_limit_range(content: msgspec.Raw) -> Rules:
    """Raises what msgspec raises."""
    return _of_limit_range(bytes(typed_json.decode(content, _Range).spec))


def read_quota(content: msgspec.Raw) -> Rules:
    """Raises what msgspec raises."""
    spec = typed_json.decode(content, _Quota).spec
    scopes = {*spec.scopes, *(scope.name for scope in spec.selector.scopes)}
    return _of_quota(frozenset(map(_key, spec.hard)), not scopes.isdisjoint(_CLASSES))


def admits(rules: Sequence[Rules], resources: Mapping[str, Mapping[str, Any]], others: Sequence[Amounts]) -> bool:
    """Return whether a pod of the containers `others`, which keeps the rules, keeps them with an init container."""
    ours = amounts(resources)
    for rule in rules:
        ours = {**rule.defaults, **ours}
    if any(_exceeds(ours.get(("requests", kind)), ours.get(("limits", kind))) for _, kind in ours):
        return False
    return all(_keeps(rule, ours, others) for rule in rules)


def amounts(resources: Mapping[str, Mapping[str, Any]]) -> Amounts:
    """Return amounts as the API server reads them: a limit is also the default request."""
    limits, requests = (resources.get(section) or {} for section in ("limits", "requests"))
    found = [("limits", kind, value) for kind, value in limits.items()]
    found += [("requests", kind, value) for kind, value in {**limits, **requests}.items()]
    parsed = ((section, kind, quantities.parse(value)) for section, kind, value in found)
    return {(section, kind): amount for section, kind, amount in parsed if amount is not None}


def _keeps(rule: Rules, ours: Amounts, others: Sequence[Amounts]) -> bool:
    totals = (key for key in rule.totals if key in ours)
    if any(ours[key] > sum(other.get(key, Decimal()) for other in others) for key in totals):
        return False
    if not rule.demanded <= ours.keys():
        return False
    if rule.by_class and _has_class(ours) and not any(map(_has_class, others)):
        return False
    return (
        all(_at_least(ours.get(("requests", kind)), least) for kind, least in rule.least.items())
        and all(_at_most(ours.get(("limits", kind)), most) for kind, most in rule.most.items())
        and all(_has_ratio(ours, kind, ratio) for kind, ratio in rule.ratio.items())
    )


def _has_ratio(ours: Amounts, kind: str, ratio: Decimal) -> bool:
    request, limit = ours.get(("requests", kind)), ours.get(("limits", kind))
    return bool(request) and limit is not None and request is not None and limit <= ratio * request


def _has_class(given: Amounts) -> bool:
    """Return whether a container makes its pod more than BestEffort."""
    return any(amount and kind in _DEMANDED for (_, kind), amount in given.items())


def _at_least(amount: Decimal | None, bound: Decimal) -> bool:
    return amount is not None and amount >= bound


def _at_most(amount: Decimal | None, bound: Decimal) -> bool:
    return amount is not None and amount <= bound


def _exceeds(amount: Decimal | None, bound: Decimal | None) -> bool:
    return amount is not None and bound is not None and amount > bound


@functools.lru_cache(256)
def _of_limit_range(spec: bytes) -> Rules:
    """One object for LimitRanges of the same text."""
    items = typed_json.decode(spec, _RangeSpec).limits
    of_containers = [item for item in items if item.type == "Container"]
    of_pods = [item for item in items if item.type == "Pod"]
    bounded = {kind for item in of_pods for kind in (*item.min, *item.max, *item.max_limit_request_ratio)}
    return Rules(
        least=_merge(item.min for item in of_containers),
        most=_merge(item.max for item in of_containers),
        ratio=_merge(item.max_limit_request_ratio for item in of_containers),
        defaults={
            **{("requests", kind): value for kind, value in _merge(i.default_request for i in of_containers).items()},
            **{("limits", kind): value for kind, value in _merge(item.default for item in of_containers).items()},
        },
        totals=frozenset((section, kind) for kind in bounded for section in _SECTIONS),
        demanded=frozenset(),
        by_class=False,
    )


@functools.lru_cache(256)
def _of_quota(keys: frozenset[Key], by_class: bool) -> Rules:
    """One object for quotas of the same resources, whatever their amounts are."""
    return Rules({}, {}, {}, {}, keys, frozenset(key for key in keys if key[1] in _DEMANDED), by_class)


def _key(name: str) -> Key:
    """Return a quota's resource; `cpu` is the same as `requests.cpu`."""
    section, dot, kind = name.partition(".")
    return (section, kind) if dot and section in _SECTIONS else ("requests", name)


def _merge(items: Iterator[Mapping[str, Any]]) -> dict[str, Decimal]:
    parsed = ((kind, quantities.parse(value)) for item in items for kind, value in item.items())
    return {kind: amount for kind, amount in parsed if amount is not None}


typed_json.prepare(_Range, _RangeSpec, _Quota)
