"""A cluster's way from the Dynatrace Operator, by the page on it.

A chart with the same names stands in for that operator: the definition of DynaKubes, in an older version and without a
webhook, and the CSIDriver.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation
from tests.e2e.fixture_types import WaitFor
from tests.e2e.helm import Helm
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import documented_commands
from tests.e2e.story.administrator import Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish
from tests.e2e.story.steps import FIRST
from tests.fakes import tenant
from tests.fakes.tenant import Tenant

OPERATOR: Final = "dynatrace-operator"
STORED: Final = "v1beta5"
"""The version of DynaKubes that the other operator's definition stores"""
TAKE_OWNERSHIP: Final = "--take-ownership"


def definition() -> dict[str, Any]:
    """The definition of DynaKubes, whose only version is an older one."""
    (crd,) = installation.manifests("crd.yaml")
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == STORED)
    spec = {**crd["spec"], "conversion": {"strategy": "None"}, "versions": [{**version, "storage": True}]}
    return {**crd, "metadata": {"name": crd["metadata"]["name"]}, "spec": spec}


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    kubectl("create", "namespace", NAMESPACE)
    return NAMESPACE


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path, namespace: str, user: Administrator) -> Iterator[None]:
    """The other operator, installed by Helm."""
    chart = tmp_path / OPERATOR
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(f"{{apiVersion: v2, name: {OPERATOR}, version: 1.7.0}}")
    (driver,) = (one for one in installation.manifests("csi-driver.yaml") if one["kind"] == "CSIDriver")
    for name, manifest in {"crd": definition(), "csidriver": driver}.items():
        (chart / "templates" / f"{name}.yaml").write_text(yaml.safe_dump(manifest))
    helm = Helm(cluster.control_plane.admin)
    helm("install", OPERATOR, str(chart), "--wait")
    yield
    helm("uninstall", OPERATOR, "--ignore-not-found")


def dynakube(api_url: str) -> dict[str, Any]:
    selector = {"matchLabels": {"team": "shop"}}
    return {
        "apiVersion": f"dynatrace.com/{STORED}",
        "kind": "DynaKube",
        "metadata": {"name": "shop", "namespace": NAMESPACE},
        "spec": {"apiUrl": api_url, "oneAgent": {"applicationMonitoring": {"namespaceSelector": selector}}},
    }


def prepare(kubectl: Kubectl, user: Administrator, api_url: str) -> None:
    """Create a DynaKube with its token, and the label by which it selects the applications."""
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "shop", f"--from-literal=apiToken={tenant.TOKEN}")
    kubectl.apply(dynakube(api_url))
    user.types("kubectl label namespace my-shop team=shop")


def install(user: Administrator, *arguments: str) -> None:
    """Install the chart, as the page says, into a namespace that is there."""
    (commands,) = documented_commands.blocks(documented_commands.INSTALL, "By Helm")
    create, label, command = commands.split("\n", 2)
    assert create.startswith("kubectl create namespace"), create
    user.types(label)
    user.runs_helm(" ".join([command.rstrip(), *arguments]))


def test_dynakubes_and_pods_come_along(
    kubectl: Kubectl, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, operator: None,
    tmp_path: Path,
) -> None:  # fmt: skip
    publish(FIRST)
    prepare(kubectl, user, dynatrace.api_url)
    save, leave, apply, _ = documented_commands.blocks(documented_commands.MIGRATION, "Migrate")
    at = f"cd {tmp_path}\n"
    user.types(f"KUBECONFIG=$(realpath $KUBECONFIG); {at}{save}")
    user.types(leave)
    assert not kubectl("get", "crds,csidrivers", "-o", "name")
    install(user)
    user.types(f"KUBECONFIG=$(realpath $KUBECONFIG); {at}{apply}")
    shop.has_agent(shop.starts("cart"), FIRST)


def test_a_definition_that_is_there_is_taken_over_with_its_dynakubes(
    kubectl: Kubectl, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, namespace: str,
    wait_for: WaitFor,
) -> None:  # fmt: skip
    publish(FIRST)
    kubectl.apply(definition())
    kubectl("wait", "crd/dynakubes.dynatrace.com", "--for=condition=Established", "--timeout=20s")
    prepare(kubectl, user, dynatrace.api_url)
    with pytest.raises(AssertionError, match="invalid ownership metadata"):
        install(user)
    take, _ = documented_commands.blocks(documented_commands.MIGRATION, "If the CRD of DynaKubes is still there")
    assert TAKE_OWNERSHIP in take
    install(user, TAKE_OWNERSHIP)
    user.changes("wait", "--for=condition=Ready", "--timeout=60s")
    # Both replicas of the webhook list DynaKubes for themselves, as soon as they can convert them.
    wait_for(lambda: all(shop.would_be_injected() for _ in range(4)), "the webhook knows the DynaKube", within=5)
    shop.has_agent(shop.starts("cart"), FIRST)
