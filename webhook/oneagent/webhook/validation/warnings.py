"""Warnings about fields. The API server itself warns of old API versions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from oneagent.common.dynakube.api import fields, json_path, schema, version_history
from oneagent.webhook.validation import agents, network
from oneagent.webhook.validation.context import Subject, quoted

_MOST: Final = 10
"""The API server passes on a few kilobytes of warnings in all."""
_DEPRECATED: Final = ("Deprecated.", "Without effect")
"""Beginnings of such fields' descriptions."""


def unknown_fields(seen: Subject) -> Iterator[str]:
    found = schema.unknown(version_history.described(seen.version), seen.written)
    for path in itertools.islice(found, _MOST):
        versions = [version for version in fields.VERSIONS if schema.look(version_history.described(version), path)]
        which = f"it is one of {versions[-1]}" if versions else "nothing here reads it"
        yield f"{_shown(path)} is not a field of {seen.version}: {which}."
    if rest := sum(1 for _ in found):
        yield f"{rest} more fields are unknown, too."


def deprecated_fields(seen: Subject) -> Iterator[str]:
    for path, field in schema.fields(version_history.described(seen.version)):
        meaning = field.get("description", "")
        if meaning.startswith(_DEPRECATED) and json_path.look(seen.written, path) is not None:
            yield f"{path} is deprecated: {meaning}"


def other_products(seen: Subject) -> Iterator[str]:
    for name, product in sorted(fields.OUT_OF_SCOPE.items()):
        if json_path.look(seen.new, f"spec.{name}"):
            yield f"spec.{name} is kept, but nothing here acts on it: it belongs to {product}."
    if json_path.look(seen.new, "spec.enableIstio") is True:
        yield "spec.enableIstio is kept, but nothing here acts on it."


def short_versions(seen: Subject) -> Iterator[str]:
    for path, value in agents.short_versions(seen):
        yield f"{path} is {quoted(value)}, which pins nothing: only a complete version does."


def api_url_without_tls(seen: Subject) -> Iterator[str]:
    if not network.has_tls(seen):
        yield "spec.apiUrl begins with http: tokens go over the network for everybody to read."


def proxy_password_readable(seen: Subject) -> Iterator[str]:
    if network.has_proxy_password(seen):
        yield "spec.proxy.value holds a password, which whoever reads DynaKubes can read: use spec.proxy.valueFrom."


def _shown(path: str) -> str:
    """Quote a path that an HTTP header, which carries the warning, can't hold."""
    return path if path.isprintable() else quoted(path)
