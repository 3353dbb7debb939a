"""The agent store: what counts as a version in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import AgentStore, StoreBusyError


def test_what_somebody_else_has_put_there_is_no_version(tmp_path: Path) -> None:
    folder = DataDir(tmp_path)
    folder.create()
    for name in ("1.277.0", ".snapshot", "lost + found"):
        (folder.agents / name).mkdir()
    (folder.agents / "1.278.0").touch()
    assert AgentStore(folder).versions() == ["1.277.0"]


def test_neither_a_mount_nor_a_removal_waits_for_the_other(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    store, other = AgentStore(data), AgentStore(data)
    with store.removal():
        assert other.is_removing()
        with pytest.raises(StoreBusyError, match="removing versions"):
            other.lease()
    with store.lease(), other.lease():
        assert not other.is_removing()
        with pytest.raises(StoreBusyError, match="a mount is in progress"):
            other.removal()
