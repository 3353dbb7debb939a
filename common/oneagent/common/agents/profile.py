"""The typed profile of a kind of agent: everything in which kinds differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from oneagent.common.agents.pod_files import PodFiles
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState

Files = Iterator[tuple[str, str]]
"""Paths below the directory of a pod's own files, and their texts"""


class PodIdentity(NamedTuple):
    """Empty where it is not known."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """Everything that the variables of a container are made of."""

    orchestration: str
    """The DynaKube's mode as agents report it"""
    webhook_version: str
    cluster_id: str
    network_zone: str
    release_fields: tuple[tuple[str, str], ...] = ()
    """Parts of the release's name, and the pod's fields that have them"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProfile:
    """Paths are relative to a view, which has the agent's package and the pod's own files, unless they say otherwise.

    The functions import what they need when they are called: no process needs all of it.
    """

    kind: str
    """Name of the kind, as in volumes"""
    title: str
    """Name for users"""
    object_kind: str
    """Kind of the object in the API that says which pods get the agent"""
    name_prefix: str
    """Begins the names of the DynaKubes that an object of another kind becomes: no DynaKube has such a name. Empty for
    the agent of DynaKubes."""
    preload_library: str
    """The library that `LD_PRELOAD` names"""
    config_file: str
    """The agent's own configuration: a package may have it, and a config layer replaces it"""
    more_config_files: tuple[str, ...]
    """Further files that a config layer may have. Without one, a view has none, or an empty one."""
    writable_directories: tuple[str, ...]
    """Directories that an agent writes to. Read-only views and empty views have them too: they are mount points for
    something writable, and a container whose mount point is missing does not start."""
    mount_files: tuple[str, ...]
    """Files that a version has to have, if empty, where it is mounted read-only: other files are mounted over them"""
    install_path: str
    """Absolute: where containers mount the view, unless a pod chooses another path"""
    container_file: str
    """Name of a container's own file among the pod's files, with `{container}`"""
    container_path: str
    """Where a container mounts its own file: absolute, or below the view"""
    identity_file: str
    """Name of the file about the pod that every view has, for containers that mount no file of their own"""
    has_metadata: bool
    """Pods with the agent get metadata files for what sends data by itself"""
    needs_csi: bool
    """The agent comes only by the CSI driver, not by an init container"""
    asks_tenant: bool
    """A tenant names the version and has the package, unless the user chooses an image, a version or a file. Without a
    tenant a version is that of an image or a file."""
    variables: Callable[[ContainerFacts], Iterable[dict[str, Any]]]
    """Variables of a container besides `LD_PRELOAD`, as in its `env`"""
    is_own_variable: Callable[[Mapping[str, Any]], bool]
    """Recognizes a variable that is certainly by an injection, whatever its value"""
    render_identity: Callable[[PodFiles], str]
    render_pod_files: Callable[[PodFiles], Files]
    """All of the pod's files except for the identity file"""
    parse_identity: Callable[[str], PodIdentity]
    """The pod that the text of an identity file is about"""
    render_config: Callable[[str, DynaKube, TenantState], Mapping[str, str]]
    """The files of a config layer, from the package's text of `config_file`, the DynaKube and the tenant's answers"""
    can_report: Callable[[str, str], bool]
    """Tests that agents can report with such a text, of the DynaKube of this name"""

    @property
    def config_files(self) -> tuple[str, ...]:
        return (self.config_file, *self.more_config_files)

    def name_of_object(self, dynakube: str) -> str:
        """Return the name of the object in the API that a DynaKube is, or that became one."""
        return dynakube.removeprefix(self.name_prefix)

    @property
    def mounts_in_view(self) -> bool:
        """Containers mount their own file into the view, so that each view has to have a file there."""
        return not self.container_path.startswith("/")

    @property
    def library_name(self) -> str:
        return self.preload_library.rpartition("/")[2]
