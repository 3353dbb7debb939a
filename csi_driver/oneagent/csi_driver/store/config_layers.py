"""Config layers: the agent's merged configuration in a directory that lies above the agent in a view.

A layer never changes, because the lower layers of an overlay must not. Other content makes another layer, named by its
digest. So a running pod keeps the configuration that it started with, and pods with equal configuration share a layer.
Most have one file; of an agent whose profile names more, a layer has those for which there is a text.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from oneagent.common import agents, fsync, logs, unpack
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.identifiers import TenantId
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import syscalls, tree_walker

if TYPE_CHECKING:
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState

log = logging.getLogger(__name__)

CONFIG_FILE: Final = agents.DEFAULT.config_file
MAX_CONFIG_BYTES: Final = 2 << 20
"""Size of a package's file; a current one has 20 KiB."""


def merge_config(tree: Path, dynakube: DynaKube, tenant: TenantState) -> tuple[AgentProfile, Mapping[str, str]]:
    """Return the kind of a version's tree, and its configuration merged with the tenant's settings and our own.

    The latter by the paths of files in a layer.
    """
    profile = agents.of_tree(tree) or agents.DEFAULT
    try:
        package = read_config(tree)
    except unpack.PackageError as error:
        # It was refused before it was stored, unless an older driver did that.
        log.warning("package's configuration ignored", extra=logs.fields(tree=tree, reason=error))
        package = ""
    return profile, profile.render_config(package, dynakube, tenant)


def read_config(tree: Path) -> str:
    """Return the file of a version's tree, "" without one. `PackageError` if it is too large, or leads elsewhere."""
    config_file = (agents.of_tree(tree) or agents.DEFAULT).config_file
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
    top = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = syscalls.openat2(top, config_file, os.O_RDONLY | os.O_NONBLOCK, resolve)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise unpack.UnsafePackageError(f"{config_file}: {error.strerror}") from error
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise unpack.UnsafePackageError(f"{config_file} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_CONFIG_BYTES:
        raise unpack.PackageTooLargeError(f"{config_file} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
    return content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def is_complete(path: str | Path, dynakube: str) -> bool:
    """Return whether agents can report with a layer's file.

    Drivers of older versions made layers without a tenant's token while the tenant did not answer.
    """
    profile = _profile(Path(path))
    try:
        text = Path(path, profile.config_file).read_text(errors="replace")
    except OSError:
        return False
    return profile.can_report(text, dynakube)


def find_files(layer: Path) -> tuple[str, ...]:
    """Return the paths of a layer's files below it: the one that each has, also if it is missing, and the others."""
    profile = _profile(layer)
    return (profile.config_file, *(each for each in profile.more_config_files if os.path.lexists(layer / each)))


def layer_id(contents: Mapping[str, bytes]) -> LayerId:
    """Return the name of the layer whose files have these contents, the one that each has coming first."""
    first, *others = contents.items()
    digest = hashlib.sha256(first[1])
    for path, content in others:
        digest.update(f"\0{path}\0".encode() + hashlib.sha256(content).digest())
    return LayerId(digest.hexdigest()[:16])


def ensure(
    data: DataDir, tenant: TenantId, texts: Mapping[str, str], profile: AgentProfile = agents.DEFAULT
) -> LayerId:
    """Create the layer with these files by one rename, unless it exists."""
    contents = {path: texts[path].encode(errors="replace") for path in profile.config_files if path in texts}
    layer = layer_id(contents)
    target = data.config_layer(tenant, layer)
    if target.exists():
        return layer
    scratch = Path(tempfile.mkdtemp(prefix="layer.", dir=data.tmp))
    try:
        for path in (scratch, scratch / "agent", scratch / "agent/conf"):
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        for name, content in contents.items():
            file = scratch / name
            file.write_bytes(content)
            file.chmod(0o644)
        fsync.sync_tree(scratch)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        scratch.rename(target)
    except BaseException:
        tree_walker.remove_if_possible(scratch)
        raise
    log.info("config layer created", extra=logs.fields(tenant=tenant, layer=layer))
    return layer


def _profile(layer: Path) -> AgentProfile:
    """Return the kind of agent that a layer is for, by its file."""
    return next((each for each in agents.PROFILES if os.path.lexists(layer / each.config_file)), agents.DEFAULT)
