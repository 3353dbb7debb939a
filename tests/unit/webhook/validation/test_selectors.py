"""Selectors select something, and no two DynaKubes the same node or namespace."""

from __future__ import annotations

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import errors, kube, mode, only

EU, US = {"zone": "eu"}, {"zone": "us"}


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "must be left out with Exists"),
        ({"matchLabels": {"a b": "c"}}, "has the key 'a b', which no label can have"),
        ({"matchLabels": {"Example.com/a": "c"}}, "which no label can have"),
        ({"matchLabels": {"a": "-b"}}, "has the value '-b' for 'a', which no label can have"),
        ({"matchLabels": {"a": "b" * 64}}, "which no label can have"),
        ({"matchLabels": {"example.com/a": "", "b_c.d": "E-f"}}, ""),
        ({}, ""),
    ],
)
def test_selectors_can_select_something(selector: Manifest, said: str) -> None:
    for spec in (
        mode("applicationMonitoring", namespaceSelector=selector),
        {"metadataEnrichment": {"enabled": True, "namespaceSelector": selector}},
    ):
        found = errors(kube(spec))
        assert said in only(found) if said else found == ()
    if "matchLabels" in selector:
        found = errors(kube(mode("classicFullStack", nodeSelector=selector["matchLabels"])))
        assert said in only(found) if said else found == ()


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
    ("mine", "other", "said"),
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
def test_a_namespace_has_one_dynakube(mine: Manifest, other: Manifest, said: str) -> None:
    known = validation.Known(own_namespace="dynatrace", namespaces=NAMESPACES if "(" in said or not said else None)
    found = errors(kube(mine), known=known, others=(kube(other, name="bank"), kube(mine)))
    assert said in only(found) if said else found == ()


def test_namespaces_may_be_parted_by_what_each_dynakube_ignores() -> None:
    mine = kube(injecting(), ignored_namespaces='["^prod-"]')
    other = kube(injecting(), name="bank", ignored_namespaces='["^test-"]')
    known = validation.Known(own_namespace="dynatrace", namespaces={"prod-a": {}, "test-a": {}})
    assert errors(mine, known=known, others=(other,)) == ()
    known = validation.Known(own_namespace="dynatrace", namespaces={"prod-a": {}, "shop": {}})
    assert "namespaces (shop) that the DynaKube 'bank'" in only(errors(mine, known=known, others=(other,)))
