"""An agent in an image: its tag goes to the operator, its digest to the nodes, and its files into a pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from oneagent.csi_driver.store import store_key
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications
from tests.fakes import images, packages, registry
from tests.fakes.registry import Registry
from tests.fakes.tenant import Tenant

NAME: Final = "pictured"
PATH: Final = "team/agent"


@pytest.fixture
def locked(tmp_path: Path, apply: Apply) -> Iterator[Registry]:
    """A registry with a password and a certificate that only the DynaKube vouches for."""
    if reason := registry.missing(registry.PROGRAM):
        pytest.skip(reason)
    authority = trustme.CA()
    with Registry(tmp_path / "registry", authority=authority, password=True, address=Node.address) as found:
        metadata = {"name": f"{NAME}-registry", "namespace": NAMESPACE}
        certificates = {"certs": authority.cert_pem.bytes().decode()}
        apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": certificates},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": metadata,
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": registry.pull_secret(found.host),
            },
        )
        yield found


def image(version: str) -> images.Image:
    layer = images.tar(*images.agent(version, library=packages.loadable()))
    return images.image(layer, architecture=images.HERE)


def test_a_tag_s_image_is_in_the_pod_and_a_moved_tag_is_a_new_version(
    webhook: None, driver: Installed, cluster: Cluster, kubectl: Kubectl, locked: Registry, dynatrace: Tenant,
    apply: Apply, wait_for: WaitFor,
) -> None:  # fmt: skip
    first = locked.push(PATH, image("1.291.0.20261001-120000"))
    # The tenant trusts nobody in particular: it is asked without TLS.
    kube, secret = manifests.dynakube(NAME, dynatrace.api_url, "", poll_interval="1s")
    kube["spec"]["trustedCAs"] = kube["spec"]["customPullSecret"] = f"{NAME}-registry"
    kube["spec"]["oneAgent"]["applicationMonitoring"] = {
        "codeModulesImage": f"{locked.host}/{PATH}:1",
        "namespaceSelector": {"matchLabels": {"team": NAME}},
    }
    namespace = manifests.namespace(f"{NAME}-shop")
    namespace["metadata"]["labels"]["team"] = NAME
    apply(namespace, secret, kube)

    def decided() -> str:
        template = "jsonpath={.status.codeModules.imageID}"
        return kubectl("-n", NAMESPACE, "get", "dynakube", NAME, "-o", template)

    wait_for(lambda: decided() == f"{locked.host}/{PATH}:1@{first}", "the operator has looked the tag up")
    wait_for(lambda: store_key.of_image(first) in driver.versions(), "the image is in the store")
    applications = Applications(cluster, f"{NAME}-shop", wait_for)
    pod = applications.started(manifests.application("cart", f"{NAME}-shop"))
    assert applications.monitored(pod)

    second = locked.push(PATH, image("1.292.0.20261001-120000"))
    wait_for(lambda: decided().endswith(second), "the operator has seen the tag move")
    wait_for(lambda: store_key.of_image(second) in driver.versions(), "the new image is in the store")
    assert applications.monitored(pod)
    kubectl("-n", f"{NAME}-shop", "delete", "pod", "cart")
