"""The agent store: what counts as a version in it."""

from __future__ import annotations

from pathlib import Path

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import AgentStore


def test_what_somebody_else_has_put_there_is_no_version(tmp_path: Path) -> None:
    folder = DataDir(tmp_path)
    folder.create()
    for name in ("1.277.0", ".snapshot", "lost + found"):
        (folder.agents / name).mkdir()
    (folder.agents / "1.278.0").touch()
    assert AgentStore(folder).versions() == ["1.277.0"]
