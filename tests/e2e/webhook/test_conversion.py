"""One DynaKube, read and written in every version that it may be written in, by way of the webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import versions
from tests.cluster.kubectl import Kubectl
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.conftest import conditions
from tests.unit.common.dynakube.api import manifests


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_nothing_is_lost_on_the_way_there_and_back(kubectl: Kubectl, dynakube: str, version: str) -> None:
    before = kubectl.json("-n", NAMESPACE, "get", "dynakube", dynakube)
    old = kubectl.json("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com", dynakube)
    assert old["apiVersion"] == f"dynatrace.com/{version}"
    kubectl("replace", "-f", "-", stdin=json.dumps(old))
    after = kubectl.json("-n", NAMESPACE, "get", "dynakube", dynakube)
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")


def test_old_dynakubes_that_inject_nothing_stand_beside_each_other_and_read_back_as_written(
    webhook: None, kubectl: Kubectl, apply: Apply, wait_for: WaitFor
) -> None:
    """By the real API server, with its defaults; before, the second one was refused as overlapping."""
    written = [_on_no_node(manifest, path.stem.replace(".", "-")) for path, manifest in _without_namespaces()]
    assert {manifest["apiVersion"].rpartition("/")[2] for manifest in written} == {"v1alpha1", "v1beta1"}
    apply(*written)
    for manifest in written:
        name, version = manifest["metadata"]["name"], manifest["apiVersion"].rpartition("/")[2]
        wait_for(lambda name=name: conditions(kubectl, name), f"the operator has seen {name}")  # type: ignore[misc]
        found = kubectl.json("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com", name)
        assert found["spec"] == {"skipCertCheck": False, "enableIstio": False, **manifest["spec"]}
        assert found["metadata"].get("annotations") == manifest["metadata"].get("annotations")
        assert kubectl.json("get", "namespaces", "-l", f"{namespace_mapping.LABEL}={name}")["items"] == []


def _without_namespaces() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in manifests.WRITTEN:
        written, expected = manifests.case(path)
        if path.stem.startswith(("v1alpha1", "v1beta1")) and not expected["namespaces"]:
            yield path, written


def _on_no_node(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The same under a name of its own, with host agents on nodes that nobody has."""
    manifest["metadata"]["name"] = name
    spec = manifest["spec"]
    for section in (*spec.get("oneAgent", {}).values(), spec.get("classicFullStack")):
        if isinstance(section, dict):
            section["nodeSelector"] = {"nobody.example.com/has": name}
    return manifest
