"""Rules about feature flags: nodes and the operator fall back to a default, so here is where somebody is told."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from oneagent.common import durations, identifiers, safe_regex
from oneagent.common.dynakube.api import feature_flags, json_path
from oneagent.webhook.validation.context import Subject, quoted

IGNORED_NAMESPACES: Final = "ignored-namespaces"

_MOST_PATTERNS: Final = 200


def _is_duration(text: str) -> bool:
    try:
        durations.parse(text)
    except (ValueError, OverflowError):
        return False
    return len(text) < 80


def _like(pattern: str) -> Callable[[str], bool]:
    form = re.compile(pattern)
    return lambda text: form.fullmatch(text) is not None


_SWITCH: Final = (_like(r"(?i:true|false)"), '"true" or "false"')
_NUMBER: Final = (_like(r"[0-9]{1,6}"), "a number from 0 to 999999")

_FORMS: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "injection-failure-policy": (_like("silent|fail"), '"silent" or "fail"'),
    "mount-policy": (_like("wait|last-good|fail"), '"wait", "last-good" or "fail"'),
    "oneagent-initial-connect-retry-ms": (_like("-1|[0-9]{1,9}"), "milliseconds, or -1 for none"),
    "oneagent-max-unavailable": (
        _like("[1-9][0-9]{0,4}|([1-9][0-9]?|100)%"),
        "a number from 1 to 99999, or 1% to 100%",
    ),
}
"""Flags that take less, or something else, than their kind says."""

_KINDS: Final[Mapping[feature_flags.Kind, tuple[Callable[[str], bool], str]]] = {
    "switch": _SWITCH,
    "number": _NUMBER,
    "duration": (_is_duration, "a duration such as 90s, 10m or 1h30m"),
}


def value_impossible(seen: Subject) -> Iterator[str]:
    for key, feature in _given(seen):
        if feature is None or not feature.handled:
            continue
        value = seen.flag(feature.name)
        fits, form = _FORMS.get(feature.name) or _KINDS.get(feature.kind) or (lambda _: True, "")
        if value and not fits(value):
            yield f"metadata.annotations[{key}] is {quoted(value)}. Make sure that it is {form}."


def ignored_namespaces_unreadable(seen: Subject) -> Iterator[str]:
    text = seen.flag(IGNORED_NAMESPACES)
    if not text:
        return
    place = feature_flags.annotation(IGNORED_NAMESPACES)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list) or not all(isinstance(pattern, str) for pattern in given):
        yield (
            f"{place} is {quoted(text)}, which is not a JSON list of texts. Make sure that it reads "
            '["^prod-.*", "^test$"].'
        )
        return
    if len(given) > _MOST_PATTERNS:
        yield f"{place} has {len(given)} patterns. Make sure that it has {_MOST_PATTERNS} at most."
    for pattern in sorted(set(given)):
        try:
            safe_regex.compile(pattern)
        except ValueError as error:
            yield (
                f"{place} has a pattern that cannot be used: {error}. Make sure that it is a plain regular expression, "
                "such as ^prod-.*"
            )


def unknown(seen: Subject) -> Iterator[str]:
    known = [feature.name for feature in feature_flags.FEATURES.values() if feature.handled]
    for key, feature in _given(seen):
        if feature is None:
            near = difflib.get_close_matches(key.rpartition("/")[2].removeprefix("feature-"), known, n=1)
            guess = f"{identifiers.FEATURE_PREFIX}{near[0]} may be meant" if near else "it has no effect"
            yield f"metadata.annotations[{key}] is a feature flag that nobody knows: {guess}."


def deprecated(seen: Subject) -> Iterator[str]:
    for key, feature in _given(seen):
        if feature is not None and feature.instead:
            yield f"metadata.annotations[{key}] is deprecated: use {feature.instead} in its place."


def other_products(seen: Subject) -> Iterator[str]:
    for key, feature in _given(seen):
        if feature is not None and not feature.handled:
            yield f"metadata.annotations[{key}] is kept, but nothing here acts on it."


def _given(seen: Subject) -> Iterator[tuple[str, feature_flags.Feature | None]]:
    return iter(
        sorted(feature_flags.given(json_path.section(seen.new, "metadata.annotations") or {}), key=lambda one: one[0])
    )
