"""The built site, once for all tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.docs import site as sites


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the built site."""
    directory = sites.copied(tmp_path_factory.mktemp("site"))
    built = sites.build(directory)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory / "build" / "site"
