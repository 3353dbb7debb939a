"""Resource attributes: what users add to the metadata of hosts and pods.

    spec.resourceAttributes                              for all hosts and pods
    spec.oneAgent.MODE.additionalResourceAttributes      for host agents, and for pods with an agent; comes first

Keys and values have the form of labels', so that they fit a line of a file and one variable. An attribute of another
form is left out, and its fault told: it is worth neither an agent nor a pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields, labels

FOR_ALL: Final = "spec.resourceAttributes"
LIMIT: Final = 64
"""Attributes in one field. With the longest keys and values two fields fill less than half of what one variable may
have in Linux."""
RECOMMENDED: Final = 10
"""More attributes than these cost more than they tell: each is stored with every record."""


def additional(mode: Mode) -> str:
    """Return the field of a mode."""
    return f"spec.oneAgent.{mode}.additionalResourceAttributes"


def read(obj: Mapping[str, object], *paths: str) -> dict[str, str]:
    """Return the valid attributes of several fields, sorted by key; later fields replace earlier ones."""
    found: dict[str, str] = {}
    for path in paths:
        given = _given(obj, path)
        valid = {key: value for key, value in given.items() if labels.is_key(key) and labels.is_value(value)}
        found |= {key: str(value) for key, value in list(valid.items())[:LIMIT]}
    return dict(sorted(found.items()))


def faults(obj: Mapping[str, object], path: str) -> Iterator[str]:
    """Yield what keeps attributes of one field from being used."""
    given = _given(obj, path)
    for key, value in given.items():
        if not labels.is_key(key):
            yield f"has the key {_shown(key)}, which must read {labels.KEY_FORM}"
        if not labels.is_value(value):
            yield f"has the value {_shown(value)} for {_shown(key)}, which must have {labels.VALUE_FORM}"
    if len(given) > LIMIT:
        yield f"has {len(given)} attributes; {LIMIT} are possible"


def _given(obj: Mapping[str, object], path: str) -> Mapping[str, object]:
    try:
        return fields.mapping(obj, path) or {}
    except fields.FieldError:
        return {}


def _shown(value: object) -> str:
    return repr(value if not isinstance(value, str) or len(value) <= 80 else f"{value[:77]}...")
