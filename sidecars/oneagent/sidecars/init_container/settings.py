"""Settings of the init container, from the variables that the webhook sets; `contract.Variable` describes them.

An error names all missing variables at once. Pod authors may set any of them, so a container's name is checked before
it becomes a file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oneagent.common.agent_config import container_conf
from oneagent.common.injection import contract
from oneagent.common.injection.contract import Variable
from oneagent.sidecars.init_container import SettingsError

PROVISIONED: Final = "provisioned"
INSTALLER: Final = "installer"

VARIABLES: Final = (
    (Variable.FAILURE_POLICY, "silent: always end with 0; fail: end with 1 if not all is in place"),
    (Variable.MODE, "provisioned: a CSI volume has the agent; installer: download it"),
    (Variable.ONEAGENT_INJECTED, "true if the pod gets an agent"),
    (Variable.ENRICHMENT_INJECTED, "true if the pod gets files of metadata"),
    (Variable.DYNAKUBE, "the DynaKube that the pod belongs to"),
    (Variable.VERSION, "of the agent, if this pod has one of its own (installer)"),
    (Variable.FLAVOR, "default or multidistro (installer)"),
    (Variable.TECHNOLOGIES, "such as java,nodejs, or all; the DynaKube's if empty (installer)"),
    (Variable.INSTALL_PATH, "where the application's containers see the agent"),
    (Variable.VIEW_READ_ONLY, "true if the application's containers can't write to the agent's volume"),
    (Variable.HOST_TENANT, "the host agents' tenant, if the pod is monitored by it too"),
    (Variable.CONNECT_RETRY, "milliseconds; the agent retries its first connection for so long"),
    (Variable.POD_NAME, "the pod's name"),
    (Variable.POD_UID, "the pod's UID"),
    (Variable.BASE_POD_NAME, "the pod's name without what is random in it"),
    (Variable.NAMESPACE, "the pod's namespace"),
    (Variable.NODE_NAME, "the pod's node"),
    (Variable.CLUSTER_ID, "UID of the namespace kube-system"),
    (Variable.WORKLOAD_KIND, "kind of what the pod belongs to"),
    (Variable.WORKLOAD_NAME, "name of what the pod belongs to"),
    (Variable.CONTAINERS, "how many containers get the agent"),
    (Variable.CONTAINER_NAME.format(number="<n>"), "each one's name, from 1 on"),
    (Variable.CONTAINER_IMAGE.format(number="<n>"), "each one's image"),
)
"""Each variable and its meaning, for `--help`."""

_CONTAINER: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_COUNT: Final = re.compile(r"\d{1,3}", re.ASCII)
_MILLISECONDS: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_VALUE_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is; only tests have it elsewhere."""

    bin: str = contract.BIN_DIRECTORY
    share: str = contract.SHARE_DIRECTORY
    config: str = contract.CONFIG_DIRECTORY
    termination_log: str = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class InitContainerSettings:
    mode: str
    """`PROVISIONED`, `INSTALLER`, or empty if no agent is wanted."""
    enrichment: bool
    pod: container_conf.Container
    """What is the same for all of its containers."""
    containers: tuple[tuple[str, str], ...]
    """Name and image of each that gets the agent."""
    workload_kind: str
    workload_name: str
    connect_retry_ms: int
    version: str
    """One that is pinned for this pod; else empty."""
    flavor: str
    technologies: tuple[str, ...]
    """None: those that the DynaKube names."""


def is_silent(environ: Mapping[str, str]) -> bool:
    """Whether the pod starts whatever happens. Only a clear `fail` holds it back, a misspelt one never."""
    return environ.get(Variable.FAILURE_POLICY, "").strip() != "fail"


def is_by_hand(environ: Mapping[str, str]) -> bool:
    """Whether no variable is set, so that this is no init container."""
    return not any(name in environ for name in (Variable.FAILURE_POLICY, Variable.MODE, Variable.POD_NAME))


def read(environ: Mapping[str, str]) -> InitContainerSettings:
    """The settings; `SettingsError` names everything that is missing, or the first value that can't be used."""
    agent, enrichment = _switch(environ, Variable.ONEAGENT_INJECTED), _switch(environ, Variable.ENRICHMENT_INJECTED)
    if missing := list(_missing(environ, agent=agent)):
        raise SettingsError(f"not set: {', '.join(missing)}: the webhook sets them for its init container")
    mode = environ[Variable.MODE] if agent else ""
    if mode not in ("", PROVISIONED, INSTALLER):
        raise _unusable(Variable.MODE, mode, f"neither {PROVISIONED} nor {INSTALLER}")
    return InitContainerSettings(
        mode=mode,
        enrichment=enrichment,
        pod=_pod(environ),
        containers=_containers(environ) if agent else (),
        workload_kind=environ.get(Variable.WORKLOAD_KIND, ""),
        workload_name=environ.get(Variable.WORKLOAD_NAME, ""),
        connect_retry_ms=_milliseconds(environ),
        version=environ.get(Variable.VERSION, ""),
        flavor=environ.get(Variable.FLAVOR, "") or "default",
        technologies=tuple(filter(None, environ.get(Variable.TECHNOLOGIES, "").replace(" ", "").split(","))),
    )


def read_places(words: Sequence[str]) -> Places:
    """Parse `install-oneagent`'s flags, which a pod never has; `--help` lists the variables."""
    import argparse  # Costs time at the start of every pod, and only this needs it.

    width = max(len(name) for name, _ in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="install-oneagent",
        description="Gets the agent of a pod ready before its containers start. The webhook puts it into pods as the "
        f"init container {contract.INIT_CONTAINER}, and sets everything by variables.",
        epilog="variables:\n" + "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in VARIABLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    usual = Places()
    parser.add_argument("--bin", default=usual.bin, help="folder of the agent (default %(default)s)")
    parser.add_argument("--share", default=usual.share, help="folder of the containers' files (default %(default)s)")
    parser.add_argument("--config", default=usual.config, help="folder of Secret and token (default %(default)s)")
    parser.add_argument("--termination-log", default=usual.termination_log, help="file (default %(default)s)")
    given = parser.parse_args(words)
    return Places(given.bin, given.share, given.config, given.termination_log)


def _missing(environ: Mapping[str, str], *, agent: bool) -> Iterator[str]:
    needed = [Variable.FAILURE_POLICY, Variable.POD_NAME, Variable.POD_UID, Variable.NAMESPACE]
    if agent:
        needed += [Variable.MODE, Variable.CONTAINERS]
        number = environ.get(Variable.CONTAINERS, "")
        count = int(number) if _COUNT.fullmatch(number) else 0
        needed += [Variable.CONTAINER_NAME.format(number=number) for number in range(1, count + 1)]
    return (name for name in needed if not environ.get(name))


def _pod(environ: Mapping[str, str]) -> container_conf.Container:
    return container_conf.Container(
        pod_name=environ[Variable.POD_NAME],
        pod_uid=environ[Variable.POD_UID],
        base_pod_name=environ.get(Variable.BASE_POD_NAME, ""),
        namespace=environ[Variable.NAMESPACE],
        cluster_id=environ.get(Variable.CLUSTER_ID, ""),
        node_name=environ.get(Variable.NODE_NAME, ""),
        host_tenant=environ.get(Variable.HOST_TENANT, ""),
    )


def _containers(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    count = environ[Variable.CONTAINERS]
    if not _COUNT.fullmatch(count):
        raise _unusable(Variable.CONTAINERS, count, "not a number of containers")
    found = []
    for number in range(1, int(count) + 1):
        variable = Variable.CONTAINER_NAME.format(number=number)
        name = environ[variable]
        if not _CONTAINER.fullmatch(name):
            raise _unusable(variable, name, "not the name of a container")
        found.append((name, environ.get(Variable.CONTAINER_IMAGE.format(number=number), "")))
    return tuple(found)


def _milliseconds(environ: Mapping[str, str]) -> int:
    text = environ.get(Variable.CONNECT_RETRY, "") or "-1"
    if not _MILLISECONDS.fullmatch(text):
        raise _unusable(Variable.CONNECT_RETRY, text, "not a number of milliseconds")
    return int(text)


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "")
    if text not in ("", "true", "false"):
        raise _unusable(name, text, "neither true nor false")
    return text == "true"


def _unusable(name: str, value: str, why: str) -> SettingsError:
    return SettingsError(f"{name}: {value[:_VALUE_SHOWN]!r} is {why}: leave it to the webhook")
