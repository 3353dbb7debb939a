"""A cluster on which nothing is installed, and somebody who reads the documentation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.helm import Helm
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import applications, private_registry
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.webhook.applications import Applications
from tests.fakes import packages
from tests.fakes import registry as registries
from tests.fakes.registry import Registry
from tests.fakes.tenant import Tenant

Publish = Callable[[str], None]
Vanish = Callable[[], None]


@pytest.fixture
def shop(cluster: Cluster, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[ShopNamespace]:
    """Applications in a namespace of their own, which is there already; gone after the test."""
    namespace = manifests.namespace(SHOP)
    kubectl.apply(namespace)
    wait_for(lambda: kubectl("-n", SHOP, "get", "configmaps", "-o", "name"), "the namespace is furnished")
    yield ShopNamespace(cluster, Applications(cluster, SHOP, wait_for))
    kubectl.delete(namespace)


@pytest.fixture
def user(cluster: Cluster, kubectl: Kubectl, shop: ShopNamespace, tmp_path: Path) -> Iterator[Administrator]:
    """Whatever becomes of the test, others find nothing of what was installed."""
    user = Administrator(cluster.control_plane.admin, tmp_path)
    yield user
    kubectl("-n", SHOP, "delete", "pods", "--all")
    if kubectl("get", "crds", "-o", "name"):
        kubectl("delete", "dynakubes", "--all-namespaces", "--all", "--timeout=20s")
    Helm(cluster.control_plane.admin)("uninstall", "oneagent-csi", "--ignore-not-found", "--wait")
    kubectl("delete", "--ignore-not-found", "crd", "dynakubes.dynatrace.com")
    kubectl("delete", "--ignore-not-found", "namespace", NAMESPACE, timeout=90)
    user.cleans_up_the_node()


@pytest.fixture
def registry(node: Node, tmp_path: Path) -> Iterator[Registry]:
    if reason := registries.missing(registries.PROGRAM):
        pytest.skip(reason)
    with private_registry.serving(tmp_path / "registry", node) as registry:
        yield registry


@pytest.fixture
def departure() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def dynatrace(departure: contextlib.ExitStack) -> Tenant:
    """A tenant of the story's own."""
    tenant = departure.enter_context(Tenant(host=Node.address))
    applications.settle(tenant)
    return tenant


@pytest.fixture
def vanish(departure: contextlib.ExitStack) -> Vanish:
    """From then on nobody answers at the tenant's address."""
    return departure.close


@pytest.fixture
def publish(dynatrace: Tenant, tmp_path: Path) -> Publish:
    """The tenant has a new version."""

    def publish(version: str) -> None:
        path = packages.build(tmp_path / f"{version}.zip", version, library=packages.loadable())
        dynatrace.release(version, path)

    return publish


@pytest.fixture
def definition(kubectl: Kubectl) -> Iterator[None]:
    """The definition of OpenTelemetryInjections stays when the chart goes, and goes after the parts that watch them."""
    yield
    kubectl("delete", "--ignore-not-found", "crd", "opentelemetryinjections.csi.oneagent.dynatrace.com")
