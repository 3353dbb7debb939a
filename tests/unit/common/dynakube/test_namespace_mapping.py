"""Which DynaKube owns a namespace, and which others are refused it."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.namespace_mapping import LABEL, Decision
from oneagent.common.identifiers import DynaKubeName


def claim(name: str, created: str = "2026-01-01T00:00:00Z", **labels: str) -> namespace_mapping.Claim:
    mode: dict[str, Any] = {"namespaceSelector": {"matchLabels": labels}} if labels else {}
    manifest = {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"oneAgent": {"applicationMonitoring": mode}},
    }
    return namespace_mapping.claim(manifest, "dynatrace")


OLDEST = claim("c", "2026-01-01T00:00:00Z")
MIDDLE = claim("b", "2026-02-01T00:00:00Z")
YOUNGEST = claim("a", "2026-03-01T00:00:00Z")


def decided(*claims: namespace_mapping.Claim, name: str = "shop", **labels: str) -> Decision:
    return namespace_mapping.decide(name, labels, claims)


def decision(owner: str, *refused: str) -> Decision:
    return Decision(DynaKubeName(owner), tuple(map(DynaKubeName, refused)))


def test_the_only_claim_is_refused_nothing() -> None:
    assert decided(YOUNGEST) == decision("a")


@pytest.mark.parametrize("claims", [(OLDEST, MIDDLE, YOUNGEST), (YOUNGEST, MIDDLE, OLDEST)])
def test_the_oldest_owns_a_namespace_and_all_others_are_refused_it_by_age(
    claims: tuple[namespace_mapping.Claim, ...],
) -> None:
    assert decided(*claims) == decision("c", "b", "a")


def test_the_owner_by_the_label_keeps_it_and_older_ones_are_refused() -> None:
    assert decided(OLDEST, MIDDLE, YOUNGEST, **{LABEL: "b"}) == decision("b", "c", "a")


def test_a_label_of_a_dynakube_that_does_not_claim_it_decides_nothing() -> None:
    assert decided(MIDDLE, YOUNGEST, **{LABEL: "c"}) == decision("b", "a")


def test_a_dynakube_whose_selector_does_not_match_is_not_refused() -> None:
    assert decided(claim("a", team="web"), claim("b", team="db"), team="db") == decision("b")


@pytest.mark.parametrize("name", ["kube-system", "dynatrace", "openshift-monitoring"])
def test_an_ignored_namespace_has_no_owner_and_nobody_is_refused(name: str) -> None:
    assert decided(OLDEST, MIDDLE, name=name, **{LABEL: "c"}) == Decision(None)


def test_of_two_of_the_same_second_the_name_decides() -> None:
    assert decided(claim("b"), claim("a")) == decision("a", "b")
