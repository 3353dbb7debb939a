"""Operator and webhook, installed beside the driver, and a DynaKube whose namespaces are monitored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes import packages
from tests.fakes.tenant import Tenant

DYNAKUBE: Final = "shop"
VERSION: Final = "1.290.0.20261001-120000"
_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def webhook(driver: installation.Installed, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[None]:
    """Both Deployments of `deploy/`, ready, and the API server knows whom to trust."""
    objects = installation.operator_and_webhook(kubectl)
    wait_for(lambda: installation.trusted(kubectl), "the API server trusts the webhook")
    yield
    kubectl.delete(*objects)


@pytest.fixture(scope="package")
def dynakube(
    webhook: None, driver: installation.Installed, kubectl: Kubectl, dynatrace: Tenant, wait_for: WaitFor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:  # fmt: skip
    """A DynaKube of namespaces with the label `team=shop`, ready, its version on the node."""
    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    dynatrace.release(VERSION, packages.build(path, VERSION, library=packages.loadable()))
    kube, secret = manifests.dynakube(DYNAKUBE, dynatrace.api_url, VERSION)
    selected = {"namespaceSelector": {"matchLabels": {"team": DYNAKUBE}}}
    kube["spec"]["oneAgent"]["applicationMonitoring"] |= selected
    kube["spec"]["metadataEnrichment"] = {"enabled": True, **selected}
    kubectl.apply(secret, kube)
    wait_for(lambda: VERSION in driver.versions(), "the version is in the store")
    wait_for(lambda: "Ready=True" in conditions(kubectl), "the DynaKube is ready")
    yield DYNAKUBE
    kubectl.delete(kube, secret)


def conditions(kubectl: Kubectl, name: str = DYNAKUBE) -> str:
    template = "jsonpath={range .status.conditions[*]}{.type}={.status} {end}"
    return kubectl("-n", NAMESPACE, "get", "dynakube", name, "-o", template)


@pytest.fixture
def monitored(dynakube: str, kubectl: Kubectl) -> Iterator[str]:
    """A restricted namespace of the test's own that the DynaKube selects."""
    made = manifests.namespace(f"monitored-{next(_numbers)}")
    made["metadata"]["labels"]["team"] = dynakube
    kubectl.apply(made)
    yield made["metadata"]["name"]
    kubectl.delete(made, wait=False)


@pytest.fixture
def applications(cluster: Cluster, monitored: str, wait_for: WaitFor) -> Applications:
    return Applications(cluster, monitored, wait_for)


@pytest.fixture(scope="package")
def plugin(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin(cluster, tmp_path_factory.mktemp("bin"))
