"""The data directory: the one module that knows the paths on the node's disk.

    metadata.db                   requests, failures and desired versions; see `metadata`
    dynakubes.json                copy of the DynaKube rows, for when the database can't be read
    agents/<version>/             the agent store: complete, immutable versions
    manifests/<version>.json      file manifest of a version; its change time is that of the last good scrub
    corrupt/<version>.json        time at which a version was found corrupt
    preloaded/<version>/          preloaded versions, for the provisioner to put into the store
    pins/<version>                time until which an unused preloaded version stays
    signatures/<version>          fingerprints of the keys that signed a version
    config-layers/<tenant>/<id>/  config layers: immutable, one per merged configuration
    host-agents/<dynakube>/       persistent directories of host agents
    volumes/<volume id>/          upper/ and work/ of one view
    volume-pool/                  volume directories made in advance
    demand/                       versions, DynaKubes that pods wait for: marked by the server, read by the provisioner
    logs/<volume id>@<time>/      upper layers kept for their logs after unpublish
    clock.json                    anchor of the clock that is used for timeouts and retention; see `linux.clock`
    uninstall.marker              keeps the server running until the last volume is gone; a starting server removes it
    tmp/  trash/                  may be deleted at any start

Every name that becomes part of a path is checked to be a single, plain path component first. The root's own path must
hold none of the characters that overlay's options treat as special.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType

from oneagent.common.identifiers import DynaKubeName, TenantId, Version

VolumeId = NewType("VolumeId", str)
TargetPath = NewType("TargetPath", str)
LayerId = NewType("LayerId", str)
"""Names one immutable config layer: a digest of what is in it."""

_COMPONENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SPECIAL: Final = re.compile(r"[:,\\\s]")


class UnsafeNameError(ValueError):
    """A name that must not become part of a path."""


def is_component(name: str) -> bool:
    """Return whether a name is one plain path component."""
    return _COMPONENT.fullmatch(name) is not None


def component(name: str, what: str) -> str:
    """Return the name if it is one plain path component; else `UnsafeNameError` with `what` it names."""
    if not is_component(name):
        raise UnsafeNameError(
            f"{what} {name!r} is not usable as a directory name: use letters, digits, '.', '_' and '-', at most 128"
        )
    return name


@dataclass(frozen=True, slots=True)
class Volume:
    """The directories of one volume."""

    root: str
    upper: str
    work: str


class DataDir:
    """The paths below one data directory. Strings, not `Path`s, where the publish path uses them."""

    def __init__(self, root: Path) -> None:
        if not root.is_absolute() or _SPECIAL.search(str(root)):
            raise UnsafeNameError(
                f"data directory {str(root)!r}: give an absolute path without colon, comma, backslash or white space "
                "(it becomes part of the options of every overlay mount)"
            )
        self.root = root
        self.database = root / "metadata.db"
        self.database_lock = root / "metadata.lock"
        self.dynakubes = root / "dynakubes.json"
        self.clock = root / "clock.json"
        self.uninstall_marker = root / "uninstall.marker"
        self.server_lock = root / "server.lock"
        self.agents = root / "agents"
        self.manifests = root / "manifests"
        self.corrupt = root / "corrupt"
        self.preloaded = root / "preloaded"
        self.pins = root / "pins"
        self.signatures = root / "signatures"
        self.config_layers = root / "config-layers"
        self.host_agents = root / "host-agents"
        self.volumes = root / "volumes"
        self.logs = root / "logs"
        self.volume_pool = root / "volume-pool"
        self.demand = root / "demand"
        self.tmp = root / "tmp"
        self.trash = root / "trash"
        self._agents = f"{self.agents}/"
        self._tenants = f"{self.config_layers}/"
        self._trash = f"{self.trash}/"
        self._volumes = f"{self.volumes}/"

    def create(self) -> None:
        """Create the missing directories, readable by root only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (
            self.agents,
            self.manifests,
            self.corrupt,
            self.preloaded,
            self.pins,
            self.signatures,
            self.config_layers,
            self.host_agents,
            self.volumes,
            self.logs,
            self.volume_pool,
            self.demand,
            self.tmp,
            self.trash,
        ):
            directory.mkdir(mode=0o700, exist_ok=True)

    def agent(self, version: Version) -> str:
        return self._agents + component(version, "agent version")

    def manifest(self, version: Version) -> Path:
        return self.manifests / f"{component(version, 'agent version')}.json"

    def demand_marker(self, version: Version) -> str:
        return f"{self.demand}/{component(version, 'agent version')}"

    def corruption_record(self, version: Version) -> Path:
        return self.corrupt / f"{component(version, 'agent version')}.json"

    def pin(self, version: Version) -> Path:
        return self.pins / component(version, "agent version")

    def signature(self, version: Version) -> Path:
        return self.signatures / component(version, "agent version")

    def config_layer_path(self, tenant: TenantId, layer: LayerId) -> str:
        return f"{self._tenants}{component(tenant, 'tenant')}/{component(layer, 'config layer')}"

    def config_layer(self, tenant: TenantId, layer: LayerId) -> Path:
        return Path(self.config_layer_path(tenant, layer))

    def host_agent_directory(self, dynakube: DynaKubeName) -> Path:
        return self.host_agents / component(dynakube, "DynaKube")

    def volume(self, volume: VolumeId) -> Volume:
        root = self._volumes + component(volume, "volume id")
        return Volume(root, root + "/upper", root + "/work")

    def version_of_layer(self, path: str) -> Version | None:
        """Return the version whose directory in the store this lower layer is; None for others."""
        name = path.removeprefix(self._agents)
        return Version(name) if name != path and "/" not in name else None

    def volume_of_upper(self, path: str) -> VolumeId | None:
        """Return the volume whose upper layer this is; None for others."""
        name, _, last = path.removeprefix(self._volumes).partition("/")
        return VolumeId(name) if path.startswith(self._volumes) and last == "upper" else None

    def is_upper_of_dynatrace_operator(self, path: str, volume: VolumeId) -> bool:
        """Return whether this is the volume's upper layer as the Dynatrace Operator's driver lays it out.

        It is `appmounts/VOLUME/var` in this directory, in old releases `TENANT/run/VOLUME/var`.
        """
        parts = path.removeprefix(f"{self.root}/").split("/") if path.startswith(f"{self.root}/") else []
        return parts == ["appmounts", volume, "var"] or parts[1:] == ["run", volume, "var"]

    def trash_entry(self, name: str) -> str:
        """Return the path of a new entry of the trash for something of this name."""
        return f"{self._trash}{name}.{time.time_ns():x}"

    def is_deleted(self) -> bool:
        """Return whether the directory was deleted: a mount of it still shows it, but nothing can be created there."""
        try:
            return os.stat(self.root).st_nlink == 0
        except OSError:
            return False

    def discard(self, path: str | Path) -> bool:
        """Move a file or directory to the trash by one rename; False if it isn't there."""
        entry = self.trash_entry(os.path.basename(path))
        try:
            os.rename(path, entry)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return False
            self.create()  # The trash itself was removed.
            os.rename(path, entry)
        return True

    def keep_log(self, volume: VolumeId, now: float) -> None:
        """Move a volume's upper layer to the logs, named with the time; `FileNotFoundError` without one."""
        kept = self.logs / f"{component(volume, 'volume id')}@{now:.0f}"
        suffix = 0
        while kept.exists():
            suffix += 1
            kept = kept.with_name(f"{volume}@{now:.0f}.{suffix}")
        os.rename(self.volume(volume).upper, kept)
