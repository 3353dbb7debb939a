"""`kubectl oneagent` as one file: it runs where there is Python and nothing else, and krew can install it."""

from __future__ import annotations

import hashlib
import io
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.common import distribution
from tests.fakes.kubectl import FakeCluster
from tests.unit.operator.cli import snapshots

BUILDER: dict[str, Any] = runpy.run_path("deploy/plugin.py")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / BUILDER["NAME"]
    BUILDER["build"](target)
    return Path(target)


def run(plugin: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a PATH that has Python only, which has no packages installed."""
    programs = place / "bin"
    programs.mkdir(exist_ok=True)
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -s -W error "$@"\n')
    python.chmod(0o755)
    if not (programs / "env").exists():
        (programs / "env").symlink_to(str(shutil.which("env")))
    return subprocess.run(
        [plugin, *arguments], env={"PATH": str(programs)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_needs_python_alone(plugin: Path, tmp_path: Path) -> None:
    fake_cluster = FakeCluster(tmp_path)
    secrets = (snapshots.obj("Secret", name, snapshots.NAMESPACE, data={}) for name in snapshots.SECRET)
    fake_cluster.set_objects(*snapshots.objects(snapshots.healthy()), *secrets)
    kubectl = f"--kubectl={fake_cluster.program}"
    done = run(plugin, tmp_path, "status", kubectl, "-o", "yaml")
    assert done.stderr == ""
    assert yaml.safe_load(done.stdout)["summary"]["nodes_ready"] == 1
    for command in (["doctor"], ["support-archive", f"--file={tmp_path}/x"]):
        done = run(plugin, tmp_path, *command, kubectl)
        assert (done.returncode in (0, 1), done.stderr) == (True, ""), command
    assert run(plugin, tmp_path, "why", "cart", "-n", "shop", kubectl).returncode == 1


def test_knows_its_version(plugin: Path, tmp_path: Path) -> None:
    assert run(plugin, tmp_path, "--version").stdout == f"kubectl-oneagent {distribution.version()}\n"


def test_completes_by_its_other_name(plugin: Path, tmp_path: Path) -> None:
    other = tmp_path / "kubectl_complete-oneagent"
    other.symlink_to(plugin)
    assert run(other, tmp_path, "stat").stdout == "status\n:4\n"


def test_has_no_machine_code_and_is_always_the_same(plugin: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(plugin).namelist()
    assert all(name.endswith((".py", "/")) or ".dist-info/" in name for name in names)
    assert [name for name in names if "rich" in name and "license" in name.lower()]
    BUILDER["build"](tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == plugin.read_bytes()


def test_says_what_it_needs_to_a_python_that_is_too_old() -> None:
    content = BUILDER["_MAIN"].replace("sys.version_info < (3, 11)", "True")
    done = subprocess.run([sys.executable, "-c", content], capture_output=True, text=True, check=False)
    assert (done.returncode, "it needs Python 3.11 or newer" in done.stderr) == (1, True)
    compile(BUILDER["_MAIN"], "main", "exec", optimize=0)


def test_krew_finds_the_program_and_its_license_in_the_archive(plugin: Path, tmp_path: Path) -> None:
    target = tmp_path / "plugin.tar.gz"
    sha256 = BUILDER["build_archive"](plugin, target)
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    manifest = BUILDER["krew_manifest"]("https://example.com/plugin.tar.gz", sha256)
    (platform,) = manifest["spec"]["platforms"]
    with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as archive:
        members = {member.name: member.mode for member in archive.getmembers()}
    assert members == {platform["bin"]: 0o755, "LICENSE": 0o644}
    assert manifest["spec"]["version"] == f"v{distribution.version()}"
    assert len(manifest["spec"]["shortDescription"]) <= 50, "krew refuses longer ones"
