"""A tenant that has released one version, the endpoint that serves it, and a plain HTTP client."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.build(tmp_path_factory.mktemp("packages") / "agent.zip", filler=2 << 20)


@pytest.fixture
def server(package: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(packages.VERSION, package)
        yield server


@pytest.fixture
def serving(tmp_path: Path, server: double.Tenant) -> Iterator[fakes.RunningPackageServer]:
    with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
        serving.set_desired(fakes.desired_version(packages.VERSION, server.api_url))
        yield serving


def http(serving: fakes.RunningPackageServer, **headers: str) -> httpx.Client:
    """A client that trusts the endpoint, with a good token unless told otherwise."""
    context = ssl.create_default_context(cadata=serving.authority.cert_pem.bytes().decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return httpx.Client(
        base_url=serving.url,
        verify=context,
        trust_env=False,
        timeout=30,
        headers={"Authorization": f"Bearer {fakes.token()}", **headers},
    )


@pytest.fixture
def client(serving: fakes.RunningPackageServer) -> Iterator[httpx.Client]:
    with http(serving) as client:
        yield client
