"""Typed access to fields of an object by their dotted path, with errors that name the field.

    FieldError   a field that cannot be used: names the field, its value and the remedy

Objects come from users' YAML or JSON, so no type can be relied on. A field that is absent, null or empty text reads
as empty; a field of the wrong type is an error. Where users may put a token or a password by mistake, the caller
hides the value. Of values other than plain text only the type is shown.
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
    """Return the value at a dotted path; `None` if any part of the path is absent or null."""
    value, reached = obj, ""
    for key in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise FieldError(reached or "the document", value, "must be a mapping of fields", hidden=True)
        value, reached = value.get(key), f"{reached}.{key}" if reached else key
    return value


def text(obj: object, *paths: str, hidden: bool = False) -> str:
    """Return the first of these fields that has text, stripped; empty if none has."""
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
    """Refuse line breaks and control characters, which would add lines to the agent's configuration."""
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
    """Check for a name that a Secret or ConfigMap may have; never a path out of a directory."""
    return bool(_DNS_1123.fullmatch(name)) and ".." not in name


def flag(obj: object, path: str) -> bool | None:
    value = at(obj, path)
    if value is not None and not isinstance(value, bool):
        raise FieldError(path, value, "must be true or false, without quotes")
    return value


def mapping(obj: object, path: str) -> Mapping[str, object] | None:
    value = at(obj, path)
    if value is not None and not isinstance(value, Mapping):
        raise FieldError(path, value, "must be a mapping of fields", hidden=True)
    return value


def annotation(obj: object, key: str) -> str:
    return printable(f"metadata.annotations[{key}]", lines(obj, key))


def lines(obj: object, key: str) -> str:
    """Return an annotation's text, which may have several lines."""
    annotations = at(obj, "metadata.annotations")
    value = annotations.get(key) if isinstance(annotations, Mapping) else None
    return scalar(value).strip()


def scalar(value: object) -> str:
    """Return text for a value that should be text: without quotes, YAML reads numbers and booleans."""
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
