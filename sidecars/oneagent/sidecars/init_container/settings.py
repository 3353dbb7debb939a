"""Settings of the init container, from the variables that the webhook sets; `Variable` describes them.

An error names all missing variables at once. Pod authors may set any of them, so a container's name is checked before
it becomes a file's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.injection import contract
from oneagent.sidecars.init_container import SettingsError

PROVISIONED: Final = "provisioned"
"""In pods that an earlier release of the webhook has injected; goes with the next release"""
INSTALLER: Final = "installer"

VARIABLES: Final = (
    (Variable.FAILURE_POLICY, "silent: always exit with 0; fail: exit with 1 if incomplete"),
    (Variable.MODE, "provisioned: use the agent of a CSI volume; installer: download it"),
    (Variable.ONEAGENT_INJECTED, "true if the pod gets an agent"),
    (Variable.ENRICHMENT_INJECTED, "true if the pod gets metadata files"),
    (Variable.DYNAKUBE, "the pod's DynaKube"),
    (Variable.VERSION, "agent version that is pinned for this pod (installer)"),
    (Variable.FLAVOR, "agent flavor, default or multidistro (installer)"),
    (Variable.TECHNOLOGIES, "technologies, such as java,nodejs or all; the DynaKube's if empty (installer)"),
    (Variable.INSTALL_PATH, "path of the agent in the application's containers"),
    (Variable.VIEW_READ_ONLY, "true if the agent's volume is read-only for the application's containers"),
    (Variable.HOST_TENANT, "tenant of the DynaKube's host agents, if it has any"),
    (Variable.CONNECT_RETRY, "time to retry the agent's first connection, in milliseconds"),
    (Variable.POD_NAME, "the pod's name"),
    (Variable.POD_UID, "the pod's UID"),
    (Variable.BASE_POD_NAME, "the pod's name without its random suffix"),
    (Variable.NAMESPACE, "the pod's namespace"),
    (Variable.NODE_NAME, "the pod's node"),
    (Variable.CLUSTER_ID, "UID of the namespace kube-system"),
    (Variable.WORKLOAD_KIND, "kind of the pod's workload"),
    (Variable.WORKLOAD_NAME, "name of the pod's workload"),
    (Variable.RESOURCE_ATTRIBUTES, "additional metadata, a JSON object of strings"),
    (Variable.CONTAINERS, "number of containers with the agent"),
    (Variable.CONTAINER_NAME.format(number="<n>"), "name of each container, numbered from 1"),
    (Variable.CONTAINER_IMAGE.format(number="<n>"), "image of each container"),
)
"""Each variable and its meaning, for `--help`."""

_CONTAINER: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_COUNT: Final = re.compile(r"\d{1,3}", re.ASCII)
_MILLISECONDS: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_VALUE_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Places:
    """Paths in the container; only tests use others."""

    bin: str = contract.BIN_DIRECTORY
    share: str = contract.SHARE_DIRECTORY
    config: str = contract.CONFIG_DIRECTORY
    termination_log: str = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class InitContainerSettings:
    mode: str
    """`PROVISIONED`, `INSTALLER`, or empty without an agent"""
    files: PodFiles
    """The files for the application's containers"""
    version: str
    """Version pinned for this pod; else empty"""
    flavor: str
    technologies: tuple[str, ...]
    """Empty: those of the DynaKube"""


def is_silent(environ: Mapping[str, str]) -> bool:
    """Return whether the pod starts in any case. Only an exact `fail` keeps it from starting."""
    return environ.get(Variable.FAILURE_POLICY, "").strip() != "fail"


def is_by_hand(environ: Mapping[str, str]) -> bool:
    """Return whether no variable is set: a user runs the program outside of an init container."""
    return not any(name in environ for name in (Variable.FAILURE_POLICY, Variable.MODE, Variable.POD_NAME))


def read(environ: Mapping[str, str]) -> InitContainerSettings:
    """Read the settings; `SettingsError` names all missing variables, or the first invalid value."""
    agent, enrichment = _switch(environ, Variable.ONEAGENT_INJECTED), _switch(environ, Variable.ENRICHMENT_INJECTED)
    if missing := list(_missing(environ, agent=agent)):
        raise SettingsError(f"not set: {', '.join(missing)}: the webhook sets them for its init container")
    mode = environ[Variable.MODE] if agent else ""
    if mode not in ("", PROVISIONED, INSTALLER):
        raise _invalid(Variable.MODE, mode, f"neither {PROVISIONED} nor {INSTALLER}")
    return InitContainerSettings(
        mode=mode,
        files=PodFiles(
            _pod(environ),
            containers=_containers(environ) if agent else (),
            connect_retry_ms=_milliseconds(environ) if agent else 0,
            enrichment=enrichment,
            workload_kind=environ.get(Variable.WORKLOAD_KIND, ""),
            workload_name=environ.get(Variable.WORKLOAD_NAME, ""),
            resource_attributes=_attributes(environ) if enrichment else {},
        ),
        version=environ.get(Variable.VERSION, ""),
        flavor=environ.get(Variable.FLAVOR, "") or "default",
        technologies=tuple(filter(None, environ.get(Variable.TECHNOLOGIES, "").replace(" ", "").split(","))),
    )


def read_places(arguments: Sequence[str]) -> Places:
    """Parse `install-oneagent`'s flags, which a pod never has; `--help` lists the variables."""
    import argparse  # Costs time at every pod's start; needed only here.

    from oneagent.common import distribution

    width = max(len(name) for name, _ in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="install-oneagent",
        description="Prepares the agent of a pod before its containers start. The webhook adds it to pods as the "
        f"init container {contract.INIT_CONTAINER} and configures it with environment variables.",
        epilog="variables:\n" + "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in VARIABLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {distribution.version()}", help="print the version"
    )
    defaults = Places()
    parser.add_argument(
        "--bin", metavar="PATH", default=defaults.bin, help="directory of the agent (default %(default)s)"
    )
    parser.add_argument(
        "--share",
        metavar="PATH",
        default=defaults.share,
        help="directory of the containers' files (default %(default)s)",
    )
    parser.add_argument(
        "--config", metavar="PATH", default=defaults.config, help="directory of Secret and token (default %(default)s)"
    )
    parser.add_argument(
        "--termination-log",
        metavar="PATH",
        default=defaults.termination_log,
        help="termination message file (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    return Places(options.bin, options.share, options.config, options.termination_log)


def _missing(environ: Mapping[str, str], *, agent: bool) -> Iterator[str]:
    needed = [Variable.FAILURE_POLICY, Variable.POD_NAME, Variable.POD_UID, Variable.NAMESPACE]
    if agent:
        needed += [Variable.MODE, Variable.CONTAINERS]
        number = environ.get(Variable.CONTAINERS, "")
        count = int(number) if _COUNT.fullmatch(number) else 0
        needed += [Variable.CONTAINER_NAME.format(number=number) for number in range(1, count + 1)]
    return (name for name in needed if not environ.get(name))


def _pod(environ: Mapping[str, str]) -> Container:
    return Container(
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
        raise _invalid(Variable.CONTAINERS, count, "not a number of containers")
    containers = []
    for number in range(1, int(count) + 1):
        variable = Variable.CONTAINER_NAME.format(number=number)
        name = environ[variable]
        if not _CONTAINER.fullmatch(name):
            raise _invalid(variable, name, "not the name of a container")
        containers.append((name, environ.get(Variable.CONTAINER_IMAGE.format(number=number), "")))
    return tuple(containers)


def _milliseconds(environ: Mapping[str, str]) -> int:
    text = environ.get(Variable.CONNECT_RETRY, "") or "-1"
    if not _MILLISECONDS.fullmatch(text):
        raise _invalid(Variable.CONNECT_RETRY, text, "not a number of milliseconds")
    return int(text)


def _attributes(environ: Mapping[str, str]) -> dict[str, str]:
    text = environ.get(Variable.RESOURCE_ATTRIBUTES, "") or "{}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _invalid(Variable.RESOURCE_ATTRIBUTES, text, "not a JSON object of texts")
    return found


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "")
    if text not in ("", "true", "false"):
        raise _invalid(name, text, "neither true nor false")
    return text == "true"


def _invalid(name: str, value: str, why: str) -> SettingsError:
    return SettingsError(f"{name}: {value[:_VALUE_SHOWN]!r} is {why}: leave it to the webhook")
