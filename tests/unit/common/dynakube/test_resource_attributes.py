"""Resource attributes: what is used of them, and what is told of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oneagent.common.dynakube import resource_attributes
from oneagent.common.dynakube.mode import Mode

ADDITIONAL = resource_attributes.additional(Mode.HOST_MONITORING)


def obj(attributes: Any, additional: Any = None) -> dict[str, Any]:
    own = {"additionalResourceAttributes": additional}
    return {"spec": {"resourceAttributes": attributes, "oneAgent": {"hostMonitoring": own}}}


def test_a_later_field_replaces_keys_of_an_earlier_one() -> None:
    given = obj({"b": "1", "a": "1"}, {"c": "2", "b": "2"})
    assert list(resource_attributes.read(given, resource_attributes.FOR_ALL, ADDITIONAL).items()) == [
        ("a", "1"),
        ("b", "2"),
        ("c", "2"),
    ]


@pytest.mark.parametrize("attributes", [None, [], "a=b", 1])
def test_what_is_no_mapping_has_no_attributes(attributes: Any) -> None:
    assert resource_attributes.read(obj(attributes), resource_attributes.FOR_ALL) == {}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("my.team", "platform", ""),
        ("example.com/my-team", "", ""),
        ("aws.account.id", "123456789012", ""),
        ("a" * 63, "b" * 63, ""),
        ("a" * 64, "b", "has the key 'aaa"),
        ("my team", "b", "has the key 'my team', which must read name or example.com/name"),
        ("-team", "b", "has the key '-team'"),
        ("A.b/c/d", "b", "has the key 'A.b/c/d'"),
        ("", "b", "has the key ''"),
        ("team", "b" * 64, "has the value 'bbb"),
        ("team", "two words", "has the value 'two words' for 'team', which must have at most 63 letters"),
        ("team", "line\n", "has the value 'line\\n' for 'team'"),
        ("team", 7, "has the value 7 for 'team'"),
    ],
)
def test_keys_and_values_have_the_form_of_labels(key: str, value: Any, fault: str) -> None:
    given = obj({key: value, "good": "one"})
    faults = list(resource_attributes.faults(given, resource_attributes.FOR_ALL))
    used = resource_attributes.read(given, resource_attributes.FOR_ALL)
    if not fault:
        assert (faults, used) == ([], {key: value, "good": "one"})
    else:
        assert len(faults) == 1
        assert faults[0].startswith(fault)
        assert used == {"good": "one"}


def test_the_longest_attributes_fit_one_variable() -> None:
    """Linux takes 128 KiB of one variable; with more a container does not start."""
    longest = {f"{'p' * 253}/{number:063}": "v" * 63 for number in range(1000)}
    other = {f"{'q' * 253}/{number:063}": "v" * 63 for number in range(1000)}
    used = resource_attributes.read(obj(longest, other), resource_attributes.FOR_ALL, ADDITIONAL)
    assert len(json.dumps(used)) < 128 * 1024 / 2
    assert list(resource_attributes.faults(obj(longest), resource_attributes.FOR_ALL)) == [
        "has 1000 attributes; 64 are possible"
    ]
