"""A driver's socket in a folder that is short enough for socket paths, and ports."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import ports
from tests.fakes.identity import IdentityDriver


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sidecars-") as name:
        yield Path(name)


@pytest.fixture
def driver(folder: Path) -> Iterator[IdentityDriver]:
    """A driver that is not started yet."""
    driver = IdentityDriver(folder / "csi.sock")
    yield driver
    driver.stop()


@pytest.fixture
def port() -> int:
    return ports.free()
