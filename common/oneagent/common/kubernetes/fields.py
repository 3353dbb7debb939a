"""Fields of a manifest, read by their dotted path, with errors that name it.

    FieldError   a field that cannot be used: names the field, its value and the remedy

A manifest is whatever YAML or JSON made of somebody's text, so nothing of its types can be relied on. A field
that is absent, null or empty text reads as empty; a field of the wrong type is an error. Where a token or a
password is easily put by mistake, the caller hides the value; of a value that is not plain text only the type
is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_DNS_1123: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class FieldError(Exception):
    """`<field> is <value>: <remedy>`"""

    def __init__(self, field: str, value: object, remedy: str, *, hidden: bool = False) -> None:
        super().__init__(f"{field} {_shown(value, hidden)}: {remedy}")
        self.field = field


def at(obj: object, path: str) -> object:
    """What lies at a dotted path; `None` where any part of the way is absent or null."""
    here, way = obj, ""
    for key in path.split("."):
        if here is None:
            return None
        if not isinstance(here, Mapping):
            raise FieldError(way or "the document", here, "must be a mapping of fields", hidden=True)
        here, way = here.get(key), f"{way}.{key}" if way else key
    return here


def text(obj: object, *paths: str, hidden: bool = False) -> str:
    """The first of some places that holds text, stripped; empty if none does."""
    for path in paths:
        value = at(obj, path)
        if value is None:
            continue
        if not isinstance(value, str):
            raise FieldError(path, value, "must be text; put it in quotes", hidden=hidden)
        if value.strip():
            return printable(path, value.strip(), hidden=hidden)
    return ""


def printable(path: str, value: str, *, hidden: bool = False) -> str:
    """Line breaks and control characters would add lines of their own to the agent's configuration."""
    if not value.isprintable():
        remedy = "must not contain line breaks or control characters"
        raise FieldError(path, value, remedy, hidden=hidden)
    return value


def matching(obj: object, form: re.Pattern[str], described: str, *paths: str) -> str:
    value = text(obj, *paths)
    if value and not form.fullmatch(value):
        raise FieldError(paths[0], value, f"must be {described}")
    return value


def dns_name(obj: object, path: str, *, hidden: bool = False) -> str:
    value = text(obj, path, hidden=hidden)
    if value and not is_dns_name(value):
        remedy = "must be the name of an object: letters a-z, digits, '-' and '.'"
        raise FieldError(path, value, remedy, hidden=hidden)
    return value


def is_dns_name(name: str) -> bool:
    """Whether Kubernetes would take it for a secret's or ConfigMap's name; never a path out of a folder."""
    return bool(_DNS_1123.fullmatch(name)) and ".." not in name


def flag(obj: object, path: str) -> bool | None:
    value = at(obj, path)
    if value is not None and not isinstance(value, bool):
        raise FieldError(path, value, "must be true or false, without quotes")
    return value


def annotation(obj: object, key: str) -> str:
    return printable(f"metadata.annotations[{key}]", lines(obj, key))


def lines(obj: object, key: str) -> str:
    """An annotation's text, which may have several lines."""
    annotations = at(obj, "metadata.annotations")
    value = annotations.get(key) if isinstance(annotations, Mapping) else None
    return scalar(value).strip()


def scalar(value: object) -> str:
    """Text of what should have been text: YAML makes numbers and truth values of what is not in quotes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a very large number"
    return value if isinstance(value, str) else f"a {type(value).__name__}"


def _shown(value: object, hidden: bool) -> str:
    if value is None:
        return "is missing"
    if hidden or not isinstance(value, str | int):
        return f"(a {type(value).__name__}, not shown)"
    short = scalar(value)
    return f"is {short[:77] + '...' if len(short) > 80 else short!r}"
