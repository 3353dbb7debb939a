"""Config layers: a merged `ruxitagentproc.conf` in a directory that lies above the agent in a view.

A layer never changes, because the lower layers of an overlay must not. Other content makes another layer, named by its
digest. So a running pod keeps the configuration that it started with, and pods with equal configuration share a layer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from oneagent.common import fsync, logs, unpack
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.agent_config.ruxitagentproc import Property
from oneagent.common.identifiers import TenantId
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import syscalls, tree_walker

log = logging.getLogger(__name__)

CONFIG_FILE: Final = "agent/conf/ruxitagentproc.conf"
MAX_CONFIG_BYTES: Final = 2 << 20
"""Size of a package's file; a current one has 20 KiB."""


def merge_config(tree: Path, tenant: Iterable[Property], own: Iterable[Property]) -> str:
    """Merge the file of a version's tree with the tenant's settings and our own; ours win."""
    try:
        package = read_config(tree)
    except unpack.PackageError as error:
        # It was refused before it was stored, unless an older driver did that.
        log.warning("package's configuration ignored", extra=logs.fields(tree=tree, reason=error))
        package = ""
    return ruxitagentproc.merge(package, tenant, own).text


def read_config(tree: Path) -> str:
    """Return the file of a version's tree, "" without one. `PackageError` if it is too large, or leads elsewhere."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
    top = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = syscalls.openat2(top, CONFIG_FILE, os.O_RDONLY | os.O_NONBLOCK, resolve)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise unpack.UnsafePackageError(f"{CONFIG_FILE}: {error.strerror}") from error
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise unpack.UnsafePackageError(f"{CONFIG_FILE} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_CONFIG_BYTES:
        raise unpack.PackageTooLargeError(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
    return content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def layer_id(content: bytes) -> LayerId:
    """Return the name of the layer whose file has this content."""
    return LayerId(hashlib.sha256(content).hexdigest()[:16])


def ensure(data: DataDir, tenant: TenantId, text: str) -> LayerId:
    """Create the layer with this content by one rename, unless it exists."""
    layer = layer_id(text.encode(errors="replace"))
    target = data.config_layer(tenant, layer)
    if target.exists():
        return layer
    scratch = Path(tempfile.mkdtemp(prefix="layer.", dir=data.tmp))
    try:
        for path in (scratch, scratch / "agent", scratch / "agent/conf"):
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        file = scratch / CONFIG_FILE
        file.write_text(text, errors="replace")
        file.chmod(0o644)
        fsync.sync_tree(scratch)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        scratch.rename(target)
    except BaseException:
        tree_walker.remove_if_possible(scratch)
        raise
    log.info("config layer created", extra=logs.fields(tenant=tenant, layer=layer))
    return layer
