"""Arguments of host agents: the operator's, and then the user's.

A user's argument replaces the operator's of the same name, so that none is passed twice.
"""

from __future__ import annotations

from typing import Final

from oneagent.common import dynakube
from oneagent.common.agents.oneagent import variables
from oneagent.common.dynakube.mode import Mode
from oneagent.operator.host_agents import spec
from oneagent.operator.host_agents.spec import HostAgent

_HOST_ID_SOURCE: Final = "--set-host-id-source"
_HOST_PROPERTY: Final = "--set-host-property"
"""Given once for each property."""


def build(kube: dynakube.DynaKube, agent: HostAgent, *, has_proxy: bool) -> list[str]:
    ours = _operators(kube, agent, has_proxy)
    reserved = set[str]()
    if agent.mode is Mode.CLOUD_NATIVE_FULL_STACK:
        # Agents in pods find their host by the node's name.
        reserved.add(_HOST_ID_SOURCE)
    if agent.host_group:
        # The field takes precedence over an argument.
        reserved.add(spec.HOST_GROUP)
        ours.append(f"{spec.HOST_GROUP}={_literal(agent.host_group)}")
    users = [argument for argument in agent.args if _name(argument) not in reserved]
    replaced = {_name(argument) for argument in users} - {_HOST_PROPERTY}
    return [*(argument for argument in ours if _name(argument) not in replaced), *users]


def _operators(kube: dynakube.DynaKube, agent: HostAgent, has_proxy: bool) -> list[str]:
    host_id_source = "auto" if agent.mode is Mode.CLASSIC_FULL_STACK else "k8s-node-name"
    return [
        # Empty values make an agent delete a former setting.
        f"--set-proxy={'$(https_proxy)' if has_proxy else ''}",
        f"--set-no-proxy={_literal(kube.no_proxy) if has_proxy else ''}",
        *([f"--set-network-zone={_literal(kube.network_zone)}"] if kube.network_zone else []),
        f"{_HOST_PROPERTY}=OperatorVersion=$({variables.OPERATOR_VERSION})",
        f"--set-tenant=$({variables.TENANT})",
        f"--set-server={{$({variables.SERVER})}}",
        f"{_HOST_ID_SOURCE}={host_id_source}",
    ]


def _name(argument: str) -> str:
    return argument.partition("=")[0].strip()


def _literal(value: str) -> str:
    """Escape `$(NAME)`, which Kubernetes would expand."""
    return value.replace("$(", "$$(")
