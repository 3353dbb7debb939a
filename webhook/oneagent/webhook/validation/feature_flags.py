"""Rules about feature flags. Only they report a bad value: nodes and the operator use the default instead."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from oneagent.common import durations, identifiers, safe_regex
from oneagent.common.dynakube.api import feature_flags, json_path
from oneagent.webhook.validation.context import ValidationContext, quote

IGNORED_NAMESPACES: Final = "ignored-namespaces"

_HINTS: Final = 10
"""Unknown flags for which a similar one is looked for, which takes a millisecond each"""
_LONGEST_NAME: Final = 100


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
"""Forms of flags that differ from the form of their kind."""

_KINDS: Final[Mapping[feature_flags.Kind, tuple[Callable[[str], bool], str]]] = {
    "switch": _SWITCH,
    "number": _NUMBER,
    "duration": (_is_duration, "a duration such as 90s, 10m or 1h30m"),
}


def value_invalid(ctx: ValidationContext) -> Iterator[str]:
    for key, feature in _given_flags(ctx):
        if feature is None or not feature.handled:
            continue
        value = ctx.flag(feature.name)
        fits, form = _FORMS.get(feature.name) or _KINDS.get(feature.kind) or (lambda _: True, "")
        if value and not fits(value):
            yield f"metadata.annotations[{key}] is {quote(value)}. Make sure that it is {form}."


def ignored_namespaces_invalid(ctx: ValidationContext) -> Iterator[str]:
    text = ctx.flag(IGNORED_NAMESPACES)
    if not text:
        return
    annotation = feature_flags.annotation(IGNORED_NAMESPACES)
    try:
        patterns = json.loads(text)
    except (ValueError, RecursionError):
        patterns = None
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        yield (
            f"{annotation} is {quote(text)}, which is not a JSON list of strings. Make sure that it reads "
            '["^prod-.*", "^test$"].'
        )
        return
    if len(patterns) > safe_regex.MAX_PATTERNS:
        most = safe_regex.MAX_PATTERNS
        yield f"{annotation} has {len(patterns)} patterns. Make sure that it has at most {most}."
        return
    try:
        safe_regex.compile_all(patterns)
    except ValueError as error:
        yield (
            f"{annotation} has an invalid pattern: {error}. Make sure that it is a regular expression without "
            "look-around, such as ^prod-.*"
        )


def unknown(ctx: ValidationContext) -> Iterator[str]:
    names = [feature.name for feature in feature_flags.FEATURES.values() if feature.handled]
    unknown_keys = (key for key, feature in _given_flags(ctx) if feature is None)
    for number, key in enumerate(unknown_keys):
        name = key.rpartition("/")[2].removeprefix("feature-")[:_LONGEST_NAME]
        similar = difflib.get_close_matches(name, names, n=1) if number < _HINTS else []
        hint = f"did you mean {identifiers.FEATURE_PREFIX}{similar[0]}?" if similar else "it has no effect."
        yield f"metadata.annotations[{key}] is not a feature flag: {hint}"


def deprecated(ctx: ValidationContext) -> Iterator[str]:
    for key, feature in _given_flags(ctx):
        if feature is not None and feature.instead:
            yield f"metadata.annotations[{key}] is deprecated: use {feature.instead} instead."


def other_products(ctx: ValidationContext) -> Iterator[str]:
    for key, feature in _given_flags(ctx):
        if feature is not None and not feature.handled:
            yield f"metadata.annotations[{key}] has no effect: it belongs to another product."


def _given_flags(ctx: ValidationContext) -> Iterator[tuple[str, feature_flags.Feature | None]]:
    return iter(
        sorted(feature_flags.given(json_path.section(ctx.new, "metadata.annotations") or {}), key=lambda one: one[0])
    )
