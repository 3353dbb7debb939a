"""OneAgent: its names in packages, views and containers, and its profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from oneagent.common.agents.profile import AgentProfile, ContainerFacts, Files, PodIdentity

if TYPE_CHECKING:
    from oneagent.common.agents.pod_files import PodFiles
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState

PRELOAD_LIBRARY: Final = "agent/lib64/liboneagentproc.so"
"""Path inside a view of the library that `LD_PRELOAD` names."""
WRITABLE_DIRECTORIES: Final = ("datastorage", "log")
"""Directories below its install path that an agent writes to."""

AGENT_CONFIG_FILE: Final = "agent/conf/ruxitagentproc.conf"
"""The agent's own configuration, in a version and in a view. In a volume for a pod with a user namespace it is at this
path beside the agent, and has to be mounted over the version's."""
IDENTITY_NAME: Final = "container.conf"
"""Among the pod's files: the pod's identity, in every view"""

ORIGINAL_LD_PRELOAD: Final = "DT_ORIGINAL_LD_PRELOAD"
"""The variable to which an injection renames an `LD_PRELOAD` whose value it cannot read, whatever the kind of agent"""

# The pod's own files, mounted by subPath: each container sees only its own.
CONTAINER_CONF: Final = "container_{container}.conf"
ENRICHMENT_DIRECTORY: Final = "enrichment"
CURL_OPTIONS: Final = "curl_options.conf"
"""The same for all containers; only there if `Variable.CONNECT_RETRY` is more than 0."""

# Inside the application's containers.
INSTALL_PATH: Final = "/opt/dynatrace/oneagent-paas"
CONTAINER_CONF_PATH: Final = "/var/lib/dynatrace/oneagent/agent/config/container.conf"
ENRICHMENT_PATH: Final = "/var/lib/dynatrace/enrichment"
CURL_OPTIONS_PATH: Final = "/var/lib/dynatrace/oneagent/agent/customkeys/curl_options.conf"


def _variables(facts: ContainerFacts) -> Iterable[dict[str, Any]]:
    from oneagent.common.agents.oneagent import variables

    return variables.of_container(facts)


def _is_own_variable(variable: Mapping[str, Any]) -> bool:
    from oneagent.common.agents.oneagent import variables

    return variables.is_ours(variable)


def _render_identity(files: PodFiles) -> str:
    from oneagent.common.agents.oneagent import pod_files

    return pod_files.render_identity(files)


def _render_pod_files(files: PodFiles) -> Files:
    from oneagent.common.agents.oneagent import pod_files

    return pod_files.render(files)


def _parse_identity(text: str) -> PodIdentity:
    from oneagent.common.agents.oneagent import container_conf

    return container_conf.parse_identity(text)


def _render_config(package: str, dynakube: DynaKube, tenant: TenantState) -> Mapping[str, str]:
    from oneagent.common.agents.oneagent import config_layer

    return {AGENT_CONFIG_FILE: config_layer.render(package, dynakube, tenant)}


def _can_report(text: str, dynakube: str) -> bool:
    from oneagent.common.agents.oneagent import config_layer

    return config_layer.can_report(text, dynakube)


PROFILE: Final = AgentProfile(
    kind="oneagent",
    title="OneAgent",
    preload_library=PRELOAD_LIBRARY,
    config_file=AGENT_CONFIG_FILE,
    more_config_files=(),
    mount_files=(AGENT_CONFIG_FILE,),
    writable_directories=WRITABLE_DIRECTORIES,
    install_path=INSTALL_PATH,
    container_file=CONTAINER_CONF,
    container_path=CONTAINER_CONF_PATH,
    identity_file=IDENTITY_NAME,
    object_kind="DynaKube",
    name_prefix="",
    has_metadata=True,
    needs_csi=False,
    asks_tenant=True,
    variables=_variables,
    is_own_variable=_is_own_variable,
    render_identity=_render_identity,
    render_pod_files=_render_pod_files,
    parse_identity=_parse_identity,
    render_config=_render_config,
    can_report=_can_report,
)
