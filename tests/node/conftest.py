"""The node ring's fixtures: a real driver process, and kubelet's part as its client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import node

# OpenSSL would read all CAs of this machine for each context, in 30 ms; no test trusts one of them. An empty file is
# refused by lightkube.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parents[1] / "fakes" / "unused_authority.pem")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests mount; without rights to do so in a mount namespace of our own none of them runs."""
    own = Path("/proc/self/ns/mnt").readlink()
    try:
        parents = Path("/proc/1/ns/mnt").readlink()
    except OSError:
        return
    if own == parents:
        raise pytest.UsageError("the node ring mounts: run it in a mount namespace of its own, with `make node`")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[node.Driver]:
    """A driver whose DynaKube `demo` has its version in the store; publishes wait two seconds at most."""
    with node.running(tmp_path, "--publish-wait=2s") as (driver, _):
        yield driver


@pytest.fixture
def kubelet(driver: node.Driver) -> node.Kubelet:
    return node.Kubelet(driver.socket, driver.target_root)
