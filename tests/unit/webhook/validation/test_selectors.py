"""Selectors are valid, and no two DynaKubes select the same node or namespace."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube.api import conversion, versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import errors, kube, mode, only

EU, US = {"zone": "eu"}, {"zone": "us"}


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "must be left out with Exists"),
        ({"matchLabels": {"a b": "c"}}, "has the key 'a b', which is not a valid label key"),
        ({"matchLabels": {"Example.com/a": "c"}}, "which is not a valid label key"),
        ({"matchLabels": {"a": "-b"}}, "has the value '-b' for 'a', which is not a valid label value"),
        ({"matchLabels": {"a": "b" * 64}}, "which is not a valid label value"),
        ({"matchLabels": {"example.com/a": "", "b_c.d": "E-f"}}, ""),
        ({}, ""),
    ],
)
def test_selectors_have_valid_keys_and_values(selector: Manifest, message: str) -> None:
    for spec in (
        mode("applicationMonitoring", namespaceSelector=selector),
        {"metadataEnrichment": {"enabled": True, "namespaceSelector": selector}},
    ):
        found = errors(kube(spec))
        assert message in only(found) if message else found == ()
    if "matchLabels" in selector:
        found = errors(kube(mode("classicFullStack", nodeSelector=selector["matchLabels"])))
        assert message in only(found) if message else found == ()


@pytest.mark.parametrize(
    ("mine", "other", "conflict"),
    [
        (mode("hostMonitoring"), mode("classicFullStack"), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("cloudNativeFullStack", nodeSelector=EU), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring"), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector=EU | {"a": "b"}), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector=US), False),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector={"disk": "ssd"}), False),
        (mode("hostMonitoring"), mode("applicationMonitoring"), False),
        (mode("hostMonitoring"), {}, False),
    ],
)
def test_a_node_has_one_host_agent(mine: Manifest, other: Manifest, conflict: bool) -> None:
    others = (kube(other, name="bank"), kube(mine))
    found = errors(kube(mine), others=others)
    assert "has the host agent" not in str(found)
    assert "the DynaKube 'bank'" in only(found) if conflict else found == ()
    assert errors(kube(mine, multiple_osagents_on_node="true"), others=others) == ()


def injecting(selector: Manifest | None = None) -> Manifest:
    return mode("applicationMonitoring", **({"namespaceSelector": selector} if selector else {}))


def labels(**found: str) -> Manifest:
    return {"matchLabels": found}


ENRICHING = {"metadataEnrichment": {"enabled": True, "namespaceSelector": labels(zone="eu")}}
NAMESPACES = {
    "a": {"zone": "eu", "team": "shop"},
    "b": {"zone": "eu"},
    "c": {"zone": "eu", "team": "shop"},
    "d": {"zone": "eu", "team": "shop"},
    "e": {"zone": "eu", "team": "shop"},
    "kube-system": {"zone": "us", "team": "shop"},
}


@pytest.mark.parametrize(
    ("mine", "other", "message"),
    [
        (injecting(), injecting(), "selects namespaces that the DynaKube 'bank' selects too"),
        (injecting(labels(zone="eu")), injecting(), "selects namespaces (a, b, c and 2 more) that"),
        (injecting(labels(zone="asia")), injecting(labels(zone="asia")), "selects namespaces that"),
        (injecting(labels(zone="asia")), injecting(labels(zone="asia", team="shop")), "selects namespaces that"),
        (injecting(labels(zone="eu")), injecting(labels(team="shop")), "selects namespaces (a, c, d and 1 more) that"),
        (injecting(labels(zone="us")), injecting(labels(team="shop")), ""),
        (injecting(labels(zone="eu")), injecting(labels(zone="us")), ""),
        (injecting(labels(zone="eu")), ENRICHING, "selects namespaces (a, b, c and 2 more) that"),
        (ENRICHING, injecting(labels(zone="us")), ""),
        (injecting(), mode("hostMonitoring"), ""),
        (injecting(), injecting({"matchExpressions": [{"key": "a", "operator": "In"}]}), ""),
    ],
)
def test_a_namespace_has_one_dynakube(mine: Manifest, other: Manifest, message: str) -> None:
    cluster = validation.ClusterState(
        own_namespace="dynatrace", namespaces=NAMESPACES if "(" in message or not message else None
    )
    found = errors(kube(mine), cluster=cluster, others=(kube(other, name="bank"), kube(mine)))
    assert message in only(found) if message else found == ()


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_a_dynakube_of_an_old_version_that_does_not_inject_stands_beside_others_on_other_nodes(version: str) -> None:
    own = {"nodeSelector": {"pool": "bank"}}
    spec = {"classicFullStack": own} if version == "v1alpha1" else mode("classicFullStack", **own)
    old = kube(spec, name="bank", version=version)
    stored = conversion.convert(old, f"dynatrace.com/{versions.NEWEST}")
    other = kube(mode("cloudNativeFullStack", nodeSelector={"pool": "shop"}))
    cluster = validation.ClusterState(own_namespace="dynatrace", namespaces=NAMESPACES)
    assert errors(old, cluster=cluster, others=(other,)) == ()
    assert errors(other, cluster=cluster, others=(stored,)) == ()


def test_different_ignored_namespaces_keep_dynakubes_apart() -> None:
    mine = kube(injecting(), ignored_namespaces='["^prod-"]')
    other = kube(injecting(), name="bank", ignored_namespaces='["^test-"]')
    cluster = validation.ClusterState(own_namespace="dynatrace", namespaces={"prod-a": {}, "test-a": {}})
    assert errors(mine, cluster=cluster, others=(other,)) == ()
    cluster = validation.ClusterState(own_namespace="dynatrace", namespaces={"prod-a": {}, "shop": {}})
    assert "namespaces (shop) that the DynaKube 'bank'" in only(errors(mine, cluster=cluster, others=(other,)))
