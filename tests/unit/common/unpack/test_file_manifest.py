"""A file manifest verifies that a tree is unchanged."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common import fsync
from oneagent.common.unpack import file_manifest, tree_writer, zip
from oneagent.common.unpack.file_manifest import Finding, TreeManifestError
from tests.fakes import packages as fakes

LIBRARY = "agent/lib64/liboneagentproc.so"


@pytest.fixture
def agent(tmp_path: Path) -> tree_writer.UnpackedAgent:
    return zip.unpack_agent(fakes.build(tmp_path / "package.zip", filler=1 << 20), tmp_path / "agent")


def test_a_manifest_survives_the_disk(agent: tree_writer.UnpackedAgent, tmp_path: Path) -> None:
    path = tmp_path / "1.277.0.20230914-094321.json"
    agent.manifest.dump(path)
    agent.manifest.dump(path)

    assert file_manifest.Manifest.load(path) == agent.manifest
    assert sorted(os.listdir(tmp_path)) == ["1.277.0.20230914-094321.json", "agent", "package.zip"]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff", b"{}", b'{"files":[{"path":1}]}', b'{"files":[],"links":[],"directories":[],"format":2}'],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "version.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TreeManifestError, match=r"version\.json"):
        file_manifest.Manifest.load(path)


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        fsync.replace(tmp_path / "folder", b"")
    assert os.listdir(tmp_path) == ["folder"]


def test_an_untouched_tree_has_no_findings(agent: tree_writer.UnpackedAgent) -> None:
    assert file_manifest.verify(agent.root, agent.manifest) == []


def grow(path: Path) -> None:
    path.write_bytes(b"longer" + path.read_bytes())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("path", "change", "problem"),
    [
        (LIBRARY, Path.unlink, "missing"),
        (LIBRARY, grow, "size"),
        (LIBRARY, flip, "content"),
        (LIBRARY, lambda path: path.chmod(0o777), "mode"),
        (LIBRARY, become_folder, "type"),
        ("agent/log", lambda path: path.chmod(0o755), "mode"),
        ("agent/log", Path.rmdir, "missing"),
        ("agent/bin/current", relink, "target"),
        ("agent/bin/current", Path.unlink, "missing"),
        ("agent/new", Path.touch, "unexpected"),
        ("agent/new", lambda path: (path / "deep/er").mkdir(parents=True), "unexpected"),
    ],
)
def test_each_change_is_found(
    agent: tree_writer.UnpackedAgent, path: str, change: Callable[[Path], object], problem: str
) -> None:
    change(agent.root / path)
    assert [(found.path, found.problem) for found in file_manifest.verify(agent.root, agent.manifest)] == [
        (path, problem)
    ]


def test_a_tree_that_is_gone_is_one_finding(agent: tree_writer.UnpackedAgent) -> None:
    shutil.rmtree(agent.root)
    assert file_manifest.verify(agent.root, agent.manifest) == [Finding("", "missing")]


def test_findings_are_bounded(agent: tree_writer.UnpackedAgent) -> None:
    for number in range(20):
        (agent.root / f"new{number}").touch()
    assert len(file_manifest.verify(agent.root, agent.manifest, limit=7)) == 7


def test_reading_keeps_to_its_rate_and_can_be_stopped(agent: tree_writer.UnpackedAgent) -> None:
    start = time.monotonic()
    file_manifest.verify(agent.root, agent.manifest, bytes_per_second=5e6)
    assert time.monotonic() - start >= agent.unpacked_bytes / 5e6 * 0.9

    assert file_manifest.verify(agent.root, agent.manifest, cancelled=lambda: True) == []
