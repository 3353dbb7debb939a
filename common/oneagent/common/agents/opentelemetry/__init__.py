"""OpenTelemetry's agents: their names in packages, views and containers, and their profile.

A package has the agents of one or more languages, and a preload library that turns them on in the processes of these
languages. That library reads two files of the view, `container.env` and then `opentelemetry.env`: lines
`NAME=value`, of which the first of a name counts, and which replace no variable that the process has. If the view has
`exporter-ca.crt`, and it is not empty, the library has the agents trust its certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from oneagent.common import identifiers
from oneagent.common.agents.profile import AgentProfile, ContainerFacts, Files, PodIdentity

if TYPE_CHECKING:
    from oneagent.common.agents.pod_files import PodFiles
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState

KIND: Final = "opentelemetry"
PRELOAD_LIBRARY: Final = "agent/lib64/libotelinject.so"
CONFIG_FILE: Final = "agent/conf/opentelemetry.env"
AUTHORITY_FILE: Final = "agent/conf/exporter-ca.crt"
"""Certificates that the exporter trusts instead of the system's. The library names it to a process by the process's own
path of the view: pods may choose the install path."""
IDENTITY_NAME: Final = "container.env"
CONTAINER_FILE: Final = "container_{container}.env"
INSTALL_PATH: Final = "/opt/opentelemetry/agents"

MAX_FILE_BYTES: Final = 32 << 10
"""The library ignores a larger file."""


def _variables(_facts: ContainerFacts) -> Iterable[dict[str, Any]]:
    """The library sets all variables of a process, by the files of the view."""
    return ()


def _is_own_variable(_variable: Mapping[str, Any]) -> bool:
    return False


def _render_identity(files: PodFiles) -> str:
    from oneagent.common.agents.opentelemetry import container_env

    return container_env.render_identity(files)


def _render_pod_files(files: PodFiles) -> Files:
    from oneagent.common.agents.opentelemetry import container_env

    return container_env.render_all(files)


def _parse_identity(text: str) -> PodIdentity:
    from oneagent.common.agents.opentelemetry import container_env

    return container_env.parse_identity(text)


def _render_config(package: str, dynakube: DynaKube, tenant: TenantState) -> Mapping[str, str]:
    from oneagent.common.agents.opentelemetry import config_layer

    return config_layer.render(package, dynakube, tenant)


def _can_report(_text: str, _dynakube: str) -> bool:
    """A collector needs no token unless the administrator has given one."""
    return True


PROFILE: Final = AgentProfile(
    kind=KIND,
    title="OpenTelemetry",
    preload_library=PRELOAD_LIBRARY,
    config_file=CONFIG_FILE,
    more_config_files=(AUTHORITY_FILE,),
    mount_files=(CONFIG_FILE, AUTHORITY_FILE, f"agent/conf/{IDENTITY_NAME}"),
    writable_directories=(),
    install_path=INSTALL_PATH,
    container_file=CONTAINER_FILE,
    container_path=f"agent/conf/{IDENTITY_NAME}",
    identity_file=IDENTITY_NAME,
    object_kind=identifiers.INJECTION_KIND,
    name_prefix="otelinj.",
    has_metadata=False,
    needs_csi=True,
    asks_tenant=False,
    variables=_variables,
    is_own_variable=_is_own_variable,
    render_identity=_render_identity,
    render_pod_files=_render_pod_files,
    parse_identity=_parse_identity,
    render_config=_render_config,
    can_report=_can_report,
)
