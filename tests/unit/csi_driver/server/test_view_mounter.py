"""Messages of views that can't be mounted yet: they reach kubelet's Event about the pod."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.server.view_mounter import VersionGoneError, ViewMounter
from oneagent.csi_driver.store import AgentStore, store_key

KEY: Final = store_key.of_version(Version("1.290.0.20261001-120000"), "tenant", "abc12345")


def failure(data: DataDir, layer: str) -> str:
    mounter = ViewMounter(
        "node", data, AgentStore(data), cast("Any", None), keep_logs=False, failpoint=lambda _name: None
    )
    attempt = SimpleNamespace(request=SimpleNamespace(volume="csi-1"), record=None)
    desired = DesiredState(DynaKubeName("demo"), TenantId("abc12345"), KEY, LayerId(layer))
    with pytest.raises(VersionGoneError) as gone:
        mounter.mount(cast("Any", attempt), desired, KEY)
    return str(gone.value)


def test_they_name_the_version_as_the_dynakube_does(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.agents.mkdir()
    assert failure(data, "") == "the configuration for version 1.290.0.20261001-120000 is not ready yet"
    Path(data.config_layer_path(TenantId("abc12345"), LayerId("layer"))).mkdir(parents=True)
    assert failure(data, "layer") == "version 1.290.0.20261001-120000 left the store"
