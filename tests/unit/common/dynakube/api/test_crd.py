"""The CRD that is shipped, and what Kubernetes asks of one. The API server's own word is in the cluster ring."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deploy import generate

from oneagent.common.dynakube.api import crd, fields, schema, version_history
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS

CLIENT = crd.service("dynatrace", "dynatrace-webhook", "/convert", "QQ==")


def nodes(described: schema.Schema) -> Iterator[schema.Schema]:
    yield described
    for inner in (
        *described.get("properties", {}).values(),
        described.get("items"),
        described.get("additionalProperties"),
    ):
        if inner:
            yield from nodes(inner)


@pytest.mark.parametrize("path", generate.FILES, ids=lambda path: path.name)
def test_the_generated_files_are_current(path: Any) -> None:
    assert generate.FILES[path]() == path.read_text(), "run: .venv/bin/python deploy/generate.py"


def test_every_version_is_in_it_and_the_newest_is_stored() -> None:
    versions = {version["name"]: version for version in crd.manifest(CLIENT)["spec"]["versions"]}
    assert set(versions) == set(VERSIONS)
    assert [name for name, version in versions.items() if version["storage"]] == [NEWEST]
    assert all(version["served"] for version in versions.values())
    assert {name for name, version in versions.items() if "deprecated" not in version} == {NEWEST}


def test_conversion_goes_to_the_webhook_that_is_named() -> None:
    conversion = crd.manifest(CLIENT)["spec"]["conversion"]
    assert conversion["strategy"] == "Webhook"
    assert conversion["webhook"]["conversionReviewVersions"] == ["v1"]
    assert conversion["webhook"]["clientConfig"]["caBundle"] == "QQ=="
    assert conversion["webhook"]["clientConfig"]["service"] == {
        "namespace": "dynatrace",
        "name": "dynatrace-webhook",
        "path": "/convert",
        "port": 443,
    }


def test_the_shipped_one_names_the_service_of_the_shipped_webhook_and_leaves_the_bundle_to_the_operator() -> None:
    client = yaml.load(generate.CRD.read_text(), yaml.CSafeLoader)["spec"]["conversion"]["webhook"]["clientConfig"]
    shipped = yaml.load_all((generate.CRD.parent / "webhook.yaml").read_text(), yaml.CSafeLoader)
    (service,) = (manifest for manifest in shipped if manifest["kind"] == "Service")
    assert client["service"].pop("path") == "/convert"
    named = {key: service["metadata"][key] for key in ("name", "namespace")}
    assert client == {"service": {**named, "port": service["spec"]["ports"][0]["port"]}}


@pytest.mark.parametrize("version", VERSIONS)
class TestASchema:
    def test_describes_every_field(self, version: str) -> None:
        bare = [
            path
            for path, field in schema.fields(version_history.described(version))
            if len(field.get("description", "")) < 3
        ]
        assert bare == ["metadata"]

    def test_says_in_its_rules_what_to_do(self, version: str) -> None:
        rules = [rule for node in nodes(version_history.described(version)) for rule in node.get(schema.RULES, ())]
        assert rules
        assert all("Make sure" in rule["message"] for rule in rules)

    def test_keeps_in_spec_and_status_whatever_it_does_not_know(self, version: str) -> None:
        (found,) = (one for one in crd.manifest(CLIENT)["spec"]["versions"] if one["name"] == version)
        root = found["schema"]["openAPIV3Schema"]
        for part in ("spec", "status"):
            for node in nodes(root["properties"][part]):
                assert node.get(schema.PRESERVE) or "properties" not in node
        assert schema.PRESERVE not in root

    def test_has_the_places_that_columns_show(self, version: str) -> None:
        for _, _, path in crd.COLUMNS[:-1]:
            for place in re.sub(r"\[\?.*?\]", "[]", path.replace("['codeModules','oneAgent']", ".codeModules"))[
                1:
            ].split(","):
                assert place in dict(schema.fields(version_history.described(version)))

    def test_takes_every_section_of_other_products(self, version: str) -> None:
        for name in fields.OUT_OF_SCOPE:
            section = schema.get_field(version_history.described(version), f"spec.{name}")
            assert section is not None
            assert section[schema.PRESERVE] is True


def test_fields_are_where_each_version_had_them() -> None:
    def has(version: str, path: str) -> bool:
        return schema.get_field(version_history.described(version), path) is not None

    assert has("v1alpha1", "spec.classicFullStack.resources")
    assert has("v1alpha1", "spec.codeModules.volume")
    assert not has("v1alpha1", "spec.oneAgent.classicFullStack")
    assert has("v1beta1", "spec.namespaceSelector.matchLabels")
    assert not has("v1beta1", "spec.oneAgent.cloudNativeFullStack.namespaceSelector")
    assert not has("v1beta1", "spec.dynatraceApiRequestThreshold")
    assert has("v1beta2", "spec.oneAgent.cloudNativeFullStack.namespaceSelector")
    assert has("v1beta5", "spec.oneAgent.hostMonitoring.autoUpdate")
    assert not has("v1beta6", "spec.oneAgent.hostMonitoring.autoUpdate")
