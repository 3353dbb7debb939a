"""A tenant with a certificate that only its DynaKube vouches for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trustme

from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Tenant

NAME: Final = "vouched"
VERSION: Final = "1.298.0.20261001-120000"


def test_nodes_fetch_from_a_tenant_whose_authority_the_dynakube_names(
    driver: Installed, apply: Apply, tmp_path: Path, wait_for: WaitFor
) -> None:
    authority = trustme.CA()
    trusted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"certs": authority.cert_pem.bytes().decode()},
    }
    with Tenant(host=Node.address, tls=authority) as tenant:
        tenant.release(VERSION, packages.build(tmp_path / "agent.zip", VERSION))
        kube, secret = manifests.dynakube(NAME, tenant.api_url, VERSION)
        kube["spec"]["trustedCAs"] = NAME
        apply(*manifests.with_access(trusted, secret, kube))
        wait_for(lambda: VERSION in driver.versions(), "the version is in the store")
