"""A tenant with one released version, and a source of DynaKubes in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import packages, provisioner
from tests.fakes import tenant as double


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.build(tmp_path_factory.mktemp("packages") / "agent.zip", prefix=packages.NESTED)


@pytest.fixture(scope="session")
def other_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.build(tmp_path_factory.mktemp("packages") / "other.zip", provisioner.OTHER)


@pytest.fixture
def server(package: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(packages.VERSION, package)
        yield server


@pytest.fixture
def source() -> provisioner.FakeDynaKubeSource:
    return provisioner.FakeDynaKubeSource()
