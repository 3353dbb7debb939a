"""Whatever is written in one version, and read in another, is what it was when it comes back."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.dynakube.api import conversion, schema, version_history, versions
from oneagent.common.kubernetes import fields as kubernetes_fields
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.common.dynakube.api.strategies import SWIFTLY, described, wild

PAIRS = list(itertools.permutations(versions.VERSIONS, 2))


@pytest.mark.parametrize(("version", "other"), PAIRS)
@hypothesis.given(data=st.data())
@hypothesis.settings(SWIFTLY, max_examples=8)
def test_there_and_back_nothing_is_lost(version: str, other: str, data: st.DataObject) -> None:
    written = data.draw(described(version))
    before = copy.deepcopy(written)
    there = conversion.convert(written, f"dynatrace.com/{other}")
    assert there["apiVersion"] == f"dynatrace.com/{other}"
    assert exactly(conversion.convert(there, written["apiVersion"])) == exactly(written)
    assert exactly(written) == exactly(before)


@pytest.mark.parametrize("version", versions.VERSIONS)
@hypothesis.given(data=st.data())
@hypothesis.settings(SWIFTLY, max_examples=50)
def test_whatever_somebody_writes_comes_back_or_is_refused_in_words(version: str, data: st.DataObject) -> None:
    written = data.draw(wild(version))
    other = data.draw(st.sampled_from(versions.VERSIONS))
    try:
        there = conversion.convert(written, f"dynatrace.com/{other}")
    except kubernetes_fields.FieldError as error:
        assert "must be a mapping of fields" in str(error)
    else:
        assert exactly(conversion.convert(there, written["apiVersion"])) == exactly(written)


@hypothesis.given(data=st.data())
@hypothesis.settings(SWIFTLY, max_examples=100)
def test_a_long_way_round_loses_nothing_either(data: st.DataObject) -> None:
    way = data.draw(st.lists(st.sampled_from(versions.VERSIONS), min_size=2, max_size=6))
    written = here = data.draw(described(way[0]))
    for version in [*way[1:], way[0]]:
        here = conversion.convert(here, f"dynatrace.com/{version}")
    assert exactly(here) == exactly(written)


@pytest.mark.parametrize(("version", "other"), PAIRS)
@hypothesis.given(data=st.data())
@hypothesis.settings(SWIFTLY, max_examples=8)
def test_what_a_version_describes_is_described_in_any_other_too(version: str, other: str, data: st.DataObject) -> None:
    written = data.draw(described(version, modes=1))
    converted = conversion.convert(written, f"dynatrace.com/{other}")
    found = schema.unknown(version_history.described(other), converted)
    known_places = {path for path, _ in schema.fields(version_history.described(version))}
    assert [path for path in found if path not in known_places] == []


def exactly(manifest: Manifest) -> str:
    """Told apart: `1`, `1.0` and `true`, which are equal in Python."""
    return repr(ordered(manifest))


def ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, ordered(item)) for key, item in value.items())
    return [ordered(item) for item in value] if isinstance(value, list) else value
