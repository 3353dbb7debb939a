"""The operator beside the cluster, with the rights of its service account; one process for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.node import Node
from tests.e2e import installation, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import WaitFor
from tests.fakes import packages
from tests.fakes.tenant import Tenant


@pytest.fixture(scope="session")
def rights(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of the operator's service account, on a cluster that knows DynaKubes."""
    installation.define(cluster.kubectl)
    operator_process.install_rights(cluster.kubectl)
    return operator_process.kubeconfig(cluster, tmp_path_factory.mktemp("operator") / "kubeconfig")


@pytest.fixture(scope="module")
def running_operator(rights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[operator_process.Operator]:
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with operator_process.running(operator_process.Operator(rights, log)) as operator:
        yield operator


@pytest.fixture
def operator(running_operator: operator_process.Operator) -> Iterator[operator_process.Operator]:
    """Running; what it says during a test belongs to the test's failure."""
    before = len(running_operator.log.read_text())
    yield running_operator
    print(running_operator.log.read_text()[before:][-8000:])


@pytest.fixture
def own_operator(rights: Path, tmp_path: Path) -> Iterator[operator_process.Operator]:
    """Running; for tests that end it. Not for a module whose other tests share one: of two only one leads."""
    with operator_process.running(
        operator_process.Operator(rights, tmp_path / "operator.log", operator_process.PATIENT)
    ) as operator:
        yield operator
        print(operator.log.read_text()[-8000:])


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with Tenant(host=Node.address) as tenant:
        tenant.release(packages.VERSION, packages.build(tmp_path / "agent.zip", packages.VERSION))
        yield tenant


@pytest.fixture
def dynakube_reader(cluster: Cluster, wait_for: WaitFor) -> DynaKubeReader:
    return DynaKubeReader(cluster, wait_for)
