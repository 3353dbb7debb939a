"""Config layers: a merged `ruxitagentproc.conf` in a directory that lies above the agent in a view.

A layer never changes, because the lower layers of an overlay must not. Other content makes another layer, named by its
digest. So a running pod keeps the configuration that it started with, and pods with equal configuration share a layer.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from oneagent.common import fsync, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.agent_config.ruxitagentproc import Property
from oneagent.common.identifiers import TenantId
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import tree_walker

log = logging.getLogger(__name__)

CONFIG_FILE: Final = "agent/conf/ruxitagentproc.conf"


def merge_config(tree: Path, tenant: Iterable[Property], own: Iterable[Property]) -> str:
    """Merge the file of a version's tree with the tenant's settings and our own; ours win."""
    try:
        package = (tree / CONFIG_FILE).read_text(errors="replace")
    except FileNotFoundError:
        package = ""
    return ruxitagentproc.merge(package, tenant, own).text


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
