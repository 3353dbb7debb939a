from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oneagent.operator.host_agents import node_conflicts
from tests.unit.operator.host_agents import cases

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
NODES = st.dictionaries(st.sampled_from([f"node-{number}" for number in range(6)]), LABELS, max_size=6)
CLAIMS = st.lists(
    st.builds(node_conflicts.Claim, st.sampled_from(["one", "two", "three", "four"]), st.sampled_from("1234"), LABELS),
    max_size=4,
    unique_by=lambda claim: claim.dynakube,
)


def selected(selector: node_conflicts.Selector, present: node_conflicts.Nodes) -> set[str]:
    return {name for name, labels in present.items() if all(labels.get(key) == selector[key] for key in selector)}


@given(LABELS, LABELS, NODES)
def test_an_overlap_names_the_nodes_that_both_select_and_only_them(one: Any, two: Any, present: Any) -> None:
    found = node_conflicts.overlap(one, two, present)
    assert set(found.nodes if found else ()) == selected(one, present) & selected(two, present)


@given(LABELS, LABELS, NODES)
def test_an_overlap_is_the_same_from_both_sides(one: Any, two: Any, present: Any) -> None:
    assert node_conflicts.overlap(one, two, present) == node_conflicts.overlap(two, one, present)


@given(LABELS, LABELS, NODES)
def test_a_selector_within_another_overlaps_it_whatever_nodes_there_are(one: Any, more: Any, present: Any) -> None:
    assert node_conflicts.overlap(one, {**more, **one}, present) is not None


@given(LABELS, LABELS, NODES)
def test_selectors_that_differ_in_a_label_never_overlap(one: Any, two: Any, present: Any) -> None:
    if any(one[key] != two[key] for key in one.keys() & two.keys()):
        assert node_conflicts.overlap(one, two, present) is None


@given(CLAIMS, NODES)
def test_no_node_is_of_two_dynakubes_of_which_neither_yields(claims: list[node_conflicts.Claim], present: Any) -> None:
    staying = [claim for claim in claims if node_conflicts.oldest_conflicting(claim, claims, present) is None]
    taken = [name for claim in staying for name in selected(claim.selector, present)]
    assert len(taken) == len(set(taken))


@given(CLAIMS, NODES)
def test_the_oldest_yields_to_no_dynakube_and_none_yields_to_a_younger_one(
    claims: list[node_conflicts.Claim], present: Any
) -> None:
    for claim in claims:
        found = node_conflicts.oldest_conflicting(claim, claims, present)
        assert found is None or found[0].age < claim.age
    if claims:
        assert node_conflicts.oldest_conflicting(min(claims, key=lambda claim: claim.age), claims, present) is None


def test_windows_nodes_and_unknown_architectures_are_not_selected() -> None:
    present = {"w": {"kubernetes.io/os": "windows", "p": "1"}, "r": {"kubernetes.io/arch": "riscv64", "p": "1"}}
    assert node_conflicts.overlap({"p": "1"}, {"kubernetes.io/os": "windows"}, present) is None
    assert node_conflicts.overlap({"p": "1"}, {"kubernetes.io/arch": "riscv64"}, present) is None


def test_only_dynakubes_with_host_agents_claim_nodes() -> None:
    obj = cases.obj({"mode": "hostMonitoring", "section": {"nodeSelector": {"pool": "a"}}})
    assert node_conflicts.claim(obj) == node_conflicts.Claim("prod", "2026-01-01T00:00:00Z", {"pool": "a"})
    assert node_conflicts.claim(cases.obj({"mode": "applicationMonitoring"})) is None
    assert node_conflicts.claim({"metadata": {"name": "broken"}, "spec": "?"}) is None


def test_what_the_api_server_has_not_dated_is_the_youngest() -> None:
    new, old = node_conflicts.Claim("a", "", {}), node_conflicts.Claim("b", "2026-01-01T00:00:00Z", {})
    assert node_conflicts.oldest_conflicting(new, [old], {}) is not None
    assert node_conflicts.oldest_conflicting(old, [new], {}) is None
