"""Config layers: the tenant's `ruxitagentproc.conf`, merged, as a folder that lies above the agent in a view.

A layer never changes, since an overlay's lower layers must not; another content is another layer, named by its
digest. So a running pod keeps the configuration it started with, and pods with the same one share it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Final

from oneagent.common import dynakube, fsync, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.identifiers import TenantId
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.provisioner.tenants import TenantState

log = logging.getLogger(__name__)

CONFIG_FILE: Final = "agent/conf/ruxitagentproc.conf"


def merged(tree: Path, kube: dynakube.DynaKube, facts: TenantState) -> str:
    """The text of the file for this DynaKube and this version's tree; our own values win over the tenant's."""
    try:
        package = (tree / CONFIG_FILE).read_text(errors="replace")
    except FileNotFoundError:
        package = ""
    endpoints = facts.endpoints or tuple(part for part in kube.endpoints.split(",") if part)
    ours = ruxitagentproc.general(
        host_group=kube.host_group or None,
        tenant=facts.tenant or kube.tenant,
        tenant_token=facts.tenant_token or None,
        endpoints=endpoints or None,
        proxy=kube.proxy or None,
    )
    return ruxitagentproc.merge(package, facts.properties, ours).text


def named(content: bytes) -> LayerId:
    """The name of the layer whose file has this content."""
    return LayerId(hashlib.sha256(content).hexdigest()[:16])


def ensure(folder: DataDir, tenant: TenantId, text: str) -> LayerId:
    """Make the layer with this content, if it is not there, by one rename."""
    layer = named(text.encode(errors="replace"))
    place = folder.config_layer(tenant, layer)
    if place.exists():
        return layer
    fresh = Path(tempfile.mkdtemp(prefix="layer.", dir=folder.tmp))
    try:
        for path in (fresh, fresh / "agent", fresh / "agent/conf"):
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        file = fresh / CONFIG_FILE
        file.write_text(text, errors="replace")
        file.chmod(0o644)
        fsync.sync_tree(fresh)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        fresh.rename(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    log.info("config layer made", extra=logs.facts(tenant=tenant, layer=layer))
    return layer
