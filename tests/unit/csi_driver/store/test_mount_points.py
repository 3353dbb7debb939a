"""Mount points that a version gets for pods whose agent is mounted read-only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import AGENT_CONFIG_FILE, WRITABLE_DIRECTORIES
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import integrity, mount_points
from oneagent.csi_driver.store.integrity import State
from tests.fakes import packages

VERSION = Version("1.277.0.20230914-094321")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A store with one version, as drivers without mount points have made it."""
    return packages.store(tmp_path / "data", VERSION)


@pytest.fixture
def tree(data: DataDir) -> Path:
    return Path(data.agent(VERSION))


def check(data: DataDir) -> list[str]:
    (report,) = integrity.check(data, bytes_per_second=None)
    assert (report.state == State.OK) == (not report.findings)
    return [f"{finding.path} {finding.problem}" for finding in report.findings]


def test_are_added_once_and_are_no_corruption(data: DataDir, tree: Path) -> None:
    assert not any((tree / name).exists() for name in WRITABLE_DIRECTORIES)
    before = os.umask(0o077)
    try:
        mount_points.ensure(tree)
        mount_points.ensure(tree)
    finally:
        os.umask(before)
    assert [(tree / name).stat().st_mode & 0o7777 for name in WRITABLE_DIRECTORIES] == [0o1777] * 2
    assert (tree / AGENT_CONFIG_FILE).read_text() == "[general]\nlibjava on\n"
    assert check(data) == []


def test_a_configuration_that_the_package_lacks_is_an_empty_file_which_any_user_can_read(tree: Path) -> None:
    (tree / AGENT_CONFIG_FILE).unlink()
    mount_points.ensure(tree)
    assert (tree / AGENT_CONFIG_FILE).read_bytes() == b""
    assert (tree / AGENT_CONFIG_FILE).stat().st_mode & 0o777 == 0o644
    assert mount_points.is_added(tree, AGENT_CONFIG_FILE)


def test_what_is_in_one_is_corruption(data: DataDir, tree: Path) -> None:
    mount_points.ensure(tree)
    (tree / "log/planted").write_text("x")
    (tree / "logs").mkdir()
    assert check(data) == ["log unexpected", "logs unexpected"]


@pytest.mark.parametrize("name", [*WRITABLE_DIRECTORIES, AGENT_CONFIG_FILE])
def test_a_link_to_elsewhere_in_its_place_is_an_error(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / AGENT_CONFIG_FILE).unlink()
    (tmp_path / "secret").write_text("x")
    (tree / name).symlink_to(tmp_path / "secret" if name == AGENT_CONFIG_FILE else tmp_path)
    with pytest.raises(OSError, match=r"cross-device|symbolic"):
        mount_points.ensure(tree)
    assert not mount_points.is_added(tree, name)


def test_a_pipe_in_the_place_of_the_configuration_is_not_waited_for(tree: Path) -> None:
    (tree / AGENT_CONFIG_FILE).unlink()
    os.mkfifo(tree / AGENT_CONFIG_FILE)
    with pytest.raises(FileExistsError, match="not a regular file"):
        mount_points.ensure(tree)
