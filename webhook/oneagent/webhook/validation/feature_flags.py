"""Rules about feature flags. Only they report a bad value: nodes and the operator use the default instead."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from oneagent.common import durations, identifiers, safe_regex
from oneagent.common.dynakube.api import feature_flags, json_path
from oneagent.common.dynakube.api.feature_flags import Feature, GivenFlag
from oneagent.webhook.validation import similar_names
from oneagent.webhook.validation.context import ValidationContext, quote

IGNORED_NAMESPACES: Final = "ignored-namespaces"

_HINTS: Final = 10
"""Unknown flags for which a similar one is looked for, which takes a millisecond each"""
_LONGEST_NAME: Final = 100
_MAX_KEYS: Final = 100
"""Annotations whose prefix is looked at"""
_ALIKE: Final = 0.85
"""Least ratio of a prefix that is misspelt"""
_DOMAIN: Final = identifiers.FEATURE_PREFIX.removesuffix("/")
_OLD_DOMAINS: Final = frozenset(prefix.partition("/")[0] for prefix in feature_flags.PREFIXES[1:])


def _is_duration(text: str) -> bool:
    try:
        durations.parse(text)
    except (ValueError, OverflowError):
        return False
    return len(text) < 80


def _like(pattern: str) -> Callable[[str], bool]:
    form = re.compile(pattern)
    return lambda text: form.fullmatch(text) is not None


_SWITCH: Final = (lambda text: text.lower() in feature_flags.SWITCHES, '"true" or "false"')
_NUMBER: Final = (_like(r"[0-9]{1,6}"), "a number from 0 to 999999")

_FORMS: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "injection-failure-policy": (_like("silent|fail"), '"silent" or "fail"'),
    "mount-policy": (
        _like("wait|last-good|fail|wait-then-last-good"),
        '"wait-then-last-good", "wait", "last-good" or "fail"',
    ),
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
    for flag in _given_flags(ctx):
        if flag.feature is None or not flag.feature.handled:
            continue
        fits, form = _FORMS.get(flag.feature.name) or _KINDS.get(flag.feature.kind) or (lambda _: True, "")
        if flag.value and not fits(flag.value):
            yield f"metadata.annotations[{flag.key}] is {quote(flag.value)}. Make sure that it is {form}."


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
    flags = (flag for flag in _given_flags(ctx) if flag.feature is None)
    for number, flag in enumerate(flags):
        similar = _similar(flag) if number < _HINTS else ""
        hint = f"did you mean {similar}?" if similar else "it has no effect."
        yield f"metadata.annotations[{flag.key}] is not a feature flag: {hint}"


def misspelt_prefix(ctx: ValidationContext) -> Iterator[str]:
    """Warn of annotations that are no feature flags only because of what stands before the name."""
    for key in itertools.islice(sorted(json_path.section(ctx.new, "metadata.annotations") or {}), _MAX_KEYS):
        domain, _, name = key.partition("/")
        name = name.removeprefix("feature-")[:_LONGEST_NAME]
        is_alike = difflib.SequenceMatcher(None, domain, _DOMAIN).ratio() >= _ALIKE or domain in _OLD_DOMAINS
        if is_alike and not key.startswith(feature_flags.PREFIXES) and feature_flags.is_known(name):
            yield f"metadata.annotations[{key}] has no effect: did you mean {identifiers.FEATURE_PREFIX}{name}?"


def misplaced(ctx: ValidationContext) -> Iterator[str]:
    for flag in feature_flags.given(json_path.section(ctx.new, "metadata.labels") or {}):
        yield f"metadata.labels[{flag.key}] has no effect: feature flags are annotations."


def deprecated(ctx: ValidationContext) -> Iterator[str]:
    annotations = json_path.section(ctx.new, "metadata.annotations") or {}
    for flag in _given_flags(ctx):
        feature = flag.feature
        if feature is None or not feature.handled:
            continue
        counts = feature_flags.first_given(annotations, feature.name)
        if counts is not None and counts.key != flag.key:
            yield f"metadata.annotations[{flag.key}] has no effect: {counts.key} comes first."
        elif feature.instead:
            yield f"metadata.annotations[{flag.key}] is deprecated: use {feature.instead} instead."
        elif flag.verb:
            yield f"metadata.annotations[{flag.key}] is deprecated: use {_named(flag, feature)} instead."


def without_effect(ctx: ValidationContext) -> Iterator[str]:
    for flag in _given_flags(ctx):
        if flag.feature is not None and not flag.feature.handled:
            yield f"metadata.annotations[{flag.key}] has no effect: {flag.feature.no_effect}."


def _given_flags(ctx: ValidationContext) -> list[GivenFlag]:
    flags = feature_flags.given(json_path.section(ctx.new, "metadata.annotations") or {})
    return sorted(flags, key=lambda flag: flag.key)


def _named(flag: GivenFlag, feature: Feature) -> str:
    """Return the flag under its own name, with its value where that differs."""
    name = identifiers.FEATURE_PREFIX + feature.name
    return f'{name}: "{flag.meaning}"' if flag.meaning != flag.value else name


def _similar(flag: GivenFlag) -> str:
    """Return the flag that an unknown one may mean; never one that says the contrary."""
    name = re.sub("^.*/(feature-)?", "", flag.key)[:_LONGEST_NAME]
    verb = next((verb for verb in feature_flags.VERBS if similar_names.is_same(name.partition("-")[0], verb[:-1])), "")
    if verb:
        name = name.partition("-")[2]
    names = [feature.name for feature in feature_flags.FEATURES.values() if feature.handled]
    for candidate in similar_names.find(
        name, [name for name in names if not verb or verb in feature_flags.verbs(name)]
    ):
        feature = feature_flags.FEATURES[candidate]
        return _named(GivenFlag(flag.key, flag.value, feature, verb), feature)
    return ""
