"""The page on GitOps: no drift by the chart, and none by the operator except in the fields that the page lists."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
import yaml
from deploy import generate

from oneagent.common.dynakube.api import schema, version_history, versions
from oneagent.operator import api
from oneagent.operator.certificates import ca_bundle, cluster_state
from oneagent.operator.certificates.settings import CertificateSettings
from oneagent.operator.reconcilers import node_access
from tests.e2e.story import documented_rules
from tests.unit.examples.checks import unknown_values

NEEDS_HELM: Final = pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")
ANNOTATION_BYTES: Final = 262_144
"""The API server's limit for all annotations of an object (`TotalAnnotationSizeLimitB`)."""

_EVERYTHING: Final = {
    "opentelemetry": {"enabled": True},
    "packages": {"mirror": True},
    "priorityClass": {"create": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "openshift": {"enabled": True},
}
_VARIABLE: Final = re.compile(
    r"\b(?:rand\w+|gen\w*(?:CA|Cert|Key)\w*|uuidv4|now|ago|htpasswd|bcrypt|derivePassword|lookup|getHostByName)\b"
    r"|\.Release\.(?:Revision|IsInstall|IsUpgrade)|\.Capabilities|helm\.sh/hook"
)
_SETTINGS: Final = CertificateSettings(namespace=generate.NAMESPACE)
_OBJECTS: Final = {
    "MutatingWebhookConfiguration": api.MUTATING_WEBHOOKS,
    "ValidatingWebhookConfiguration": api.VALIDATING_WEBHOOKS,
    "CustomResourceDefinition": api.DEFINITIONS,
}


def shipped() -> list[dict[str, Any]]:
    text = generate.CRD.with_name("kubernetes.yaml").read_text()
    return list(yaml.load_all(text, yaml.CSafeLoader))


def merged(value: Any, patch: Any) -> Any:
    """A value after a JSON merge patch."""
    if not isinstance(patch, Mapping):
        return patch
    old = value if isinstance(value, Mapping) else {}
    patched = {key: merged(old.get(key), inner) for key, inner in patch.items() if inner is not None}
    return {**{key: inner for key, inner in old.items() if key not in patch}, **patched}


def changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """JSON pointers of fields that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from changes(old.get(key), new.get(key), f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from changes(*pair, f"{path}/{number}")
    elif old != new:
        yield path


class Store:
    """An API server with a ConfigMap of the chart and the CA's Secret, which keeps patches."""

    def __init__(self, secret: api.Object) -> None:
        self._found = {ca_bundle.NAME: {"metadata": {"name": ca_bundle.NAME}}, "ca": secret}
        self.patches: dict[str, Mapping[str, Any]] = {}

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None:
        return self._found[name]

    async def merge(
        self, resource: api.Resource, name: str, patch: Mapping[str, Any], namespace: str = ""
    ) -> api.Object:
        self.patches[name] = patch
        return {}


@pytest.fixture(scope="module")
def pointers() -> frozenset[documented_rules.Rule]:
    """Fields that the operator's own code changes in objects of the chart, as JSON pointers."""
    found = set[documented_rules.Rule]()
    for obj in shipped():
        kind, name = obj["kind"], obj["metadata"]["name"]
        if kind in _OBJECTS:
            obj["metadata"]["resourceVersion"] = "1"
            read = cluster_state.definition if kind == "CustomResourceDefinition" else _hooks(_OBJECTS[kind])
            target = read(obj, _SETTINGS)
            assert target.converts
            after = merged(obj, cluster_state.bundle_patch(target, b"CA", _SETTINGS))
            found |= {(kind, name, path) for path in changes(obj, after)}
        if (kind, name) == ("Role", node_access.ROLE):
            after = merged(obj, {"rules": node_access.build_rules([("Secret", "shop")])})
            found |= {(kind, name, path) for path in changes(obj, after)}
    secret = {"data": {"ca.crt": base64.b64encode(trustme.CA().cert_pem.bytes()).decode()}}
    store = Store(secret)
    asyncio.run(ca_bundle.BundlePublisher(store, generate.NAMESPACE, "ca").reconcile())
    found |= {("ConfigMap", name, path) for name, patch in store.patches.items() for path in changes({}, patch)}
    return frozenset(found)


def _hooks(resource: api.Resource) -> Any:
    return lambda obj, settings: cluster_state.hooks(resource, obj, settings)


def fields(pointers: frozenset[documented_rules.Rule]) -> frozenset[documented_rules.Rule]:
    """The same as the page's table writes them."""
    return frozenset((kind, name, re.sub(r"/\d+", "[]", path)[1:].replace("/", ".")) for kind, name, path in pointers)


def test_the_table_and_the_rules_for_argo_cd_are_the_fields_that_the_operator_writes(
    pointers: frozenset[documented_rules.Rule],
) -> None:
    assert len(pointers) == 6
    assert documented_rules.table() == documented_rules.argo_cd() == fields(pointers)


def test_the_rules_for_flux_name_each_webhook_by_its_number(pointers: frozenset[documented_rules.Rule]) -> None:
    assert frozenset(documented_rules.flux()) == pointers


def test_the_operator_may_write_no_other_object_of_the_chart_by_name() -> None:
    """DaemonSets and Secrets of its namespace it may write whatever their names; the chart has no such Secret."""
    granted = {
        (resource, name)
        for obj in shipped()
        if obj["kind"] in ("Role", "ClusterRole") and obj["metadata"]["name"].startswith("oneagent-operator")
        for rule in obj["rules"]
        if {"patch", "update"} & set(rule["verbs"])
        for resource in rule["resources"]
        for name in rule.get("resourceNames", ())
    }
    listed = {(f"{kind.lower()}s", name) for kind, name, _ in documented_rules.table() if kind != "ConfigMap"}
    of_pods = {("secrets", "oneagent-injection"), ("secrets", "oneagent-image-pull")}
    assert granted - of_pods - {("customresourcedefinitions/status", "dynakubes.dynatrace.com")} == listed
    assert "Secret" not in {obj["kind"] for obj in shipped()}


def test_the_chart_has_no_hook_no_lookup_and_no_random_value() -> None:
    for path in [*(generate.CHART / "templates").glob("*.yaml"), generate.CHART / "templates" / "_helpers.tpl"]:
        text = path.read_text()
        if not path.name.endswith("crd.yaml"):
            assert not _VARIABLE.search(text), path.name
        assert "{{ now" not in text


@NEEDS_HELM
def test_the_chart_renders_the_same_bytes_each_time() -> None:
    values = json.dumps(_EVERYTHING)
    assert generate.template(values=values) == generate.template(values=values)


@NEEDS_HELM
@pytest.mark.parametrize("issuer", ["self", "cert-manager"])
def test_the_chart_sets_none_of_the_fields(issuer: str, pointers: frozenset[documented_rules.Rule]) -> None:
    values = {**_EVERYTHING, "packages": {"mirror": issuer == "self"}, "certificates": {"issuer": issuer}}
    rendered = yaml.load_all(generate.template(values=json.dumps(values)), yaml.CSafeLoader)
    by_name = {(obj["kind"], obj["metadata"]["name"]): obj for obj in rendered if obj}
    assert (("ConfigMap", ca_bundle.NAME) in by_name) == (issuer == "self")
    for kind, name, pointer in pointers:
        node: Any = by_name.get((kind, name), {})
        for key in pointer.split("/")[1:]:
            node = node[int(key)] if isinstance(node, list) else node.get(key, {})
        assert not node, (kind, pointer)


def test_the_definition_is_as_large_as_the_page_says_and_a_client_side_apply_can_keep_its_copy() -> None:
    (crd,) = (obj for obj in shipped() if obj["kind"] == "CustomResourceDefinition")
    size = len(json.dumps(crd, separators=(",", ":")))
    assert f"has {round(size / 1000)} kB" in documented_rules.PAGE
    assert size < ANNOTATION_BYTES
    assert f"at {ANNOTATION_BYTES // 1000} kB" in documented_rules.PAGE


def test_the_defaults_that_the_api_server_adds_are_listed() -> None:
    described = version_history.described(versions.NEWEST)
    defaults = {
        f"`{path}: {json.dumps(field['default'])}`"
        for path, field in schema.fields(described)
        if path.startswith("spec.") and "default" in field
    }
    (line,) = (line for line in documented_rules.PAGE.splitlines() if "Defaults that the API server adds" in line)
    assert set(re.findall(r"`spec[^`]+`", line)) == defaults
    assert f"`{versions.NEWEST}`" in line


def test_a_deletion_waits_for_the_driver_as_long_as_the_page_says() -> None:
    (pod,) = (obj["spec"]["template"]["spec"] for obj in shipped() if obj["kind"] == "DaemonSet")
    assert f"up to {pod['terminationGracePeriodSeconds'] // 86_400} days" in documented_rules.PAGE


def test_the_samples_install_this_chart_with_values_that_it_has() -> None:
    chart = yaml.load((generate.CHART / "values.yaml").read_text(), yaml.CSafeLoader)
    place = str(generate.CHART.relative_to(Path.cwd()))
    application, release = (documented_rules.sample(kind)["spec"] for kind in ("Application", "HelmRelease"))
    assert application["source"]["path"] == release["chart"]["spec"]["chart"] == place
    for values in (application["source"]["helm"]["valuesObject"], release["values"]):
        assert list(unknown_values(values, chart)) == []
        assert values["image"]["repository"]
    assert application["destination"]["namespace"] == release["targetNamespace"] == generate.NAMESPACE
