"""A view, and the probe under the names of programs, for both libcs of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import preload


@pytest.fixture
def view(tmp_path: Path) -> preload.View:
    preload.library()  # skips
    return preload.View(tmp_path / "view")


@pytest.fixture(scope="session", params=["glibc", "musl"])
def libc(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "musl" and not os.path.exists(preload.MUSL_LOADER):
        pytest.skip(f"musl's loader {preload.MUSL_LOADER} is not on this machine")
    return name


@pytest.fixture(scope="session")
def programs(libc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the probe as programs of each language, and as `other`, which is of none."""
    directory = tmp_path_factory.mktemp(f"programs-{libc}")
    probe = preload.compile_program("probe.c", directory / "other", libc=libc)
    for name in (
        "java",
        "node",
        "python3.12",
        "python",
        "javac",
        "node-gyp",
        "python3-config",
        "pythonic",
        "python2.7",
    ):
        os.link(probe, directory / name)
    return directory
