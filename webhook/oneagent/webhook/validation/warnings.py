"""Warnings about fields. The API server itself warns of old API versions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from oneagent.common.dynakube.api import conversion, fields, json_path, schema, version_history
from oneagent.common.dynakube.mode import Mode
from oneagent.webhook.validation import agents, field_hints, network
from oneagent.webhook.validation.context import ValidationContext, quote

_MAX_UNKNOWN_FIELDS: Final = 10
"""The API server forwards only a few kilobytes of warnings."""
_WITHOUT_EFFECT: Final = "Without effect: "
_DEPRECATED: Final = "Deprecated. "
"""Beginnings of a deprecated field's description"""


def unknown_fields(ctx: ValidationContext) -> Iterator[str]:
    """Warn of fields that users wrote. The status is the operator's, also that of another release."""
    written = {key: value for key, value in ctx.written.items() if key != "status"}
    unknown = schema.unknown(version_history.described(ctx.version), written)
    for path in itertools.islice(unknown, _MAX_UNKNOWN_FIELDS):
        yield f"{_printable_path(path)} is not a field of {ctx.version}: {field_hints.hint(ctx, path)}"
    if rest := sum(1 for _ in unknown):
        yield f"{rest} more unknown fields."


def deprecated_fields(ctx: ValidationContext) -> Iterator[str]:
    for path, meaning in _deprecated_fields(ctx):
        if meaning.startswith(_DEPRECATED):
            yield f"{path} is deprecated: {meaning.removeprefix(_DEPRECATED)}"
        else:
            yield f"{path} has no effect: {meaning.removeprefix(_WITHOUT_EFFECT)}"


def carried_settings(ctx: ValidationContext) -> Iterator[str]:
    """Warn of what the newest version has no field for; it is shown by the version that it was written in."""
    note = f"metadata.annotations[{version_history.AUTO_UPDATE}]"
    if json_path.get_value(ctx.written, note) == "false" and ctx.modes(fields.HOST_MODES):
        yield f"Host agents are not updated, by autoUpdate: false of an older version, which {note} keeps."
    named = {path for path, _ in _deprecated_fields(ctx)}
    for version, path in conversion.carried_without_effect(ctx.new):
        if version != ctx.version or path not in named:
            yield f"{_printable_path(path)} of {version} has no effect; only readers of {version} see it."


def fields_without_effect(ctx: ValidationContext) -> Iterator[str]:
    """Warn of fields that others keep from having an effect."""
    selector = "spec.metadataEnrichment.namespaceSelector"
    is_on = json_path.get_value(ctx.new, "spec.metadataEnrichment.enabled") is True
    if json_path.get_value(ctx.written, selector) is not None and not is_on:
        yield f"{selector} has no effect: spec.metadataEnrichment.enabled is not true."
    driver = f"spec.oneAgent.{Mode.CLOUD_NATIVE_FULL_STACK}.useCSIDriver"
    if json_path.get_value(ctx.new, driver) is False:
        yield f"{driver} has no effect: this mode always uses the CSI driver."
    if ctx.text("spec.proxy.value") and ctx.text("spec.proxy.valueFrom"):
        yield "spec.proxy.valueFrom has no effect: spec.proxy.value comes before it."


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


def _deprecated_fields(ctx: ValidationContext) -> Iterator[tuple[str, str]]:
    """Yield path and description of each deprecated field that is written."""
    for path, field in schema.fields(version_history.described(ctx.version)):
        meaning = str(field.get("description", ""))
        is_deprecated = meaning.startswith((_DEPRECATED, _WITHOUT_EFFECT))
        if is_deprecated and json_path.get_value(ctx.written, path) is not None:
            yield path, meaning


def _printable_path(path: str) -> str:
    """Quote a path that an HTTP header, which carries the warning, can't hold."""
    return path if path.isprintable() else quote(path)
