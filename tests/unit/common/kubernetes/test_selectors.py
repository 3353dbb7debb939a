"""Selectors choose as the API server's do."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.kubernetes import selectors
from oneagent.common.kubernetes.fields import FieldError

LABELS = {"team": "shop", "tier": "web"}


def parsed(**selector: Any) -> selectors.Selector:
    return selectors.parse({"spec": {"selector": selector}}, "spec.selector")


def expression(operator: str, key: str = "team", *values: str) -> selectors.Selector:
    return parsed(matchExpressions=[{"key": key, "operator": operator, **({"values": list(values)} if values else {})}])


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (parsed(), True),
        (parsed(matchLabels={"team": "shop"}), True),
        (parsed(matchLabels={"team": "bank"}), False),
        (parsed(matchLabels={"team": "shop", "tier": "db"}), False),
        (parsed(matchLabels={"other": "shop"}), False),
        (expression("In", "team", "bank", "shop"), True),
        (expression("In", "team", "bank"), False),
        (expression("In", "other", "shop"), False),
        (expression("NotIn", "team", "bank"), True),
        (expression("NotIn", "team", "shop"), False),
        (expression("NotIn", "other", "shop"), True),
        (expression("Exists"), True),
        (expression("Exists", "other"), False),
        (expression("DoesNotExist", "other"), True),
        (expression("DoesNotExist"), False),
    ],
)
def test_labels_are_chosen(selector: selectors.Selector, chosen: bool) -> None:
    assert selector.matches(LABELS) == chosen


def test_a_selector_is_shown_in_the_form_of_kubectl() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["web", "db"]},
        {"key": "stage", "operator": "NotIn", "values": ["test"]},
        {"key": "owner", "operator": "Exists"},
        {"key": "off", "operator": "DoesNotExist"},
    ]
    selector = parsed(matchLabels={"team": "shop"}, matchExpressions=expressions)
    assert str(selector) == "team=shop,tier in (db,web),stage notin (test),owner,!off"
    assert str(selectors.EVERYTHING) == ""


def test_an_absent_selector_chooses_everything() -> None:
    assert selectors.parse({"spec": {}}, "spec.selector").matches({})
    assert selectors.EVERYTHING.matches({})


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ({"matchLabels": ["a"]}, "spec.selector.matchLabels"),
        ({"matchLabels": {"a": 1}}, "spec.selector.matchLabels[a]"),
        ({"matchExpressions": {"a": "b"}}, "spec.selector.matchExpressions"),
        ({"matchExpressions": ["a"]}, "spec.selector.matchExpressions[0]"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "spec.selector.matchExpressions[0].key"),
        ({"matchExpressions": [{"key": "", "operator": "Exists"}]}, "spec.selector.matchExpressions[0].key"),
        ({"matchExpressions": [{"key": "a", "operator": "Is"}]}, "spec.selector.matchExpressions[0].operator"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "spec.selector.matchExpressions[0].values"),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]},
            "spec.selector.matchExpressions[0].values",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": [1]}]},
            "spec.selector.matchExpressions[0].values",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
            "spec.selector.matchExpressions[0].values",
        ),
        ({"matchLabels": {f"a{number}": "b" for number in range(101)}}, "spec.selector"),
    ],
)
def test_an_invalid_selector_is_refused_at_its_field(selector: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as refused:
        parsed(**selector)
    assert refused.value.field == field


def test_a_hundred_requirements_are_accepted() -> None:
    labels = {f"a{number}": "b" for number in range(99)}
    found = parsed(matchLabels=labels, matchExpressions=[{"key": "team", "operator": "Exists"}])
    assert found.matches({**labels, "team": "x"})
    assert not found.matches(labels)
