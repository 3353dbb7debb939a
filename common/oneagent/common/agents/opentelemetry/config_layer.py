"""The files of a config layer: settings of all agents, and the certificates that their exporters trust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines

if TYPE_CHECKING:
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState

HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"


def render(package: str, dynakube: DynaKube, tenant: TenantState) -> Mapping[str, str]:
    """Return the text of each file."""
    settings = {opentelemetry.CONFIG_FILE: render_variables(package, dynakube, tenant)}
    return settings | ({opentelemetry.AUTHORITY_FILE: tenant.exporter_ca} if tenant.exporter_ca else {})


def render_variables(package: str, dynakube: DynaKube, tenant: TenantState) -> str:
    """Return the variables: those of the OpenTelemetryInjection come before the package's."""
    given = dict(dynakube.telemetry.variables) if dynakube.telemetry is not None else {}
    headers = {HEADERS: variable_lines.join(sorted(tenant.exporter_headers.items()))}
    own = {**headers, **given}
    text = variable_lines.render({**variable_lines.parse(package), **own})
    # The library would ignore a file that a package makes too large, and with it the user's settings.
    return text if len(text.encode()) <= opentelemetry.MAX_FILE_BYTES else variable_lines.render(own)
