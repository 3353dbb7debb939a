"""One DynaKube, read and written in every version that it may be written in, by way of the webhook."""

from __future__ import annotations

import json

import pytest

from oneagent.common.dynakube.api import versions
from tests.cluster.kubectl import Kubectl
from tests.e2e.manifests import NAMESPACE


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_nothing_is_lost_on_the_way_there_and_back(kubectl: Kubectl, dynakube: str, version: str) -> None:
    before = kubectl.json("-n", NAMESPACE, "get", "dynakube", dynakube)
    old = kubectl.json("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com", dynakube)
    assert old["apiVersion"] == f"dynatrace.com/{version}"
    kubectl("replace", "-f", "-", stdin=json.dumps(old))
    after = kubectl.json("-n", NAMESPACE, "get", "dynakube", dynakube)
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")
