"""Warnings about fields. The API server itself warns of old API versions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from oneagent.common.dynakube.api import fields, json_path, schema, version_history
from oneagent.common.dynakube.api.versions import VERSIONS
from oneagent.common.injection import pod_annotations
from oneagent.webhook.validation import agents, network
from oneagent.webhook.validation.context import ValidationContext, quote

_MAX_UNKNOWN_FIELDS: Final = 10
"""The API server forwards only a few kilobytes of warnings."""
_DEPRECATED: Final = ("Deprecated.", "Without effect")
"""Beginnings of a deprecated field's description."""


def unknown_fields(ctx: ValidationContext) -> Iterator[str]:
    unknown = schema.unknown(version_history.described(ctx.version), ctx.written)
    for path in itertools.islice(unknown, _MAX_UNKNOWN_FIELDS):
        versions = [version for version in VERSIONS if schema.get_field(version_history.described(version), path)]
        hint = f"it is a field of {versions[-1]}" if versions else "it has no effect"
        yield f"{_printable_path(path)} is not a field of {ctx.version}: {hint}."
    if rest := sum(1 for _ in unknown):
        yield f"{rest} more unknown fields."


def deprecated_fields(ctx: ValidationContext) -> Iterator[str]:
    for path, field in schema.fields(version_history.described(ctx.version)):
        meaning = field.get("description", "")
        if meaning.startswith(_DEPRECATED) and json_path.get_value(ctx.written, path) is not None:
            yield f"{path} is deprecated: {meaning}"


def other_products(ctx: ValidationContext) -> Iterator[str]:
    for name, product in sorted(fields.OUT_OF_SCOPE.items()):
        if json_path.get_value(ctx.new, f"spec.{name}"):
            yield f"spec.{name} has no effect: it belongs to {product}."
    if json_path.get_value(ctx.new, "spec.enableIstio") is True:
        yield "spec.enableIstio has no effect."


def short_versions(ctx: ValidationContext) -> Iterator[str]:
    for path, value in agents.short_versions(ctx):
        yield f"{path} is {quote(value)}, which pins nothing: use a complete version, such as 1.277.0.20230914-094321."


def api_url_without_tls(ctx: ValidationContext) -> Iterator[str]:
    if not network.has_tls(ctx):
        yield "spec.apiUrl starts with http: tokens are sent unencrypted; use https."


def proxy_password_in_plain_text(ctx: ValidationContext) -> Iterator[str]:
    if network.has_proxy_password(ctx):
        yield "spec.proxy.value contains a password, readable with the DynaKube: use spec.proxy.valueFrom."


def enrichment_off_without_effect(ctx: ValidationContext) -> Iterator[str]:
    if json_path.get_value(ctx.new, "spec.metadataEnrichment.enabled") is not False:
        return
    for mode in ctx.modes(fields.INJECTING_MODES):
        yield (
            f"spec.metadataEnrichment.enabled is false, but pods that get an agent by spec.oneAgent.{mode} get the "
            "metadata files in any case; a pod opts out by the annotation "
            f"{pod_annotations.INJECT_ENRICHMENT[0]}."
        )


def _printable_path(path: str) -> str:
    """Quote a path that an HTTP header, which carries the warning, can't hold."""
    return path if path.isprintable() else quote(path)
