"""A short run of what `make fuzz` does for long, where Hypothesis makes a case that fails small."""

from __future__ import annotations

import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.images import Entry, directory, hard_link, link, opaque, tar, whiteout
from tests.fuzz import __main__ as fuzz
from tests.fuzz import judging, readings

CHANCE = st.randoms(use_true_random=False)


@settings(max_examples=100, deadline=None)
@given(chance=CHANCE)
def test_any_image_is_refused_in_one_line_or_is_the_tree_that_it_says(chance: random.Random) -> None:
    judging.image(chance)


@settings(max_examples=100, deadline=None)
@given(chance=CHANCE)
def test_any_zip_is_refused_in_one_line_or_is_the_tree_that_it_says(chance: random.Random) -> None:
    judging.archive(chance)


@pytest.mark.parametrize("kind", fuzz.TARGETS["packages"].kinds)
def test_a_long_run_meets_packages_that_are_taken_and_each_reason_to_refuse_one(kind: str) -> None:
    tally = fuzz.batch(kind, 1, range(200))
    assert tally.failures == []
    assert {"", "CorruptPackageError", "UnsafePackageError"} <= tally.results.keys()


def test_a_second_reading_of_layers_knows_what_a_file_and_a_whiteout_are() -> None:
    """The judge is judged: by layers that are easy to read."""
    below = tar(Entry("d/a", b"1"), Entry("d/b", b"2"), link("l", "d"), Entry("gone", b"3"), form=tarfile.GNU_FORMAT)
    above = tar(hard_link("again", "l"), opaque("d"), Entry("d/c", b"4"), whiteout("gone"), directory("e"))
    assert readings.of_layers((below, above)) == {
        "d": readings.FOLDER,
        "d/c": readings.Thing(b"4", 0o644),
        "e": readings.FOLDER,
        "l": readings.Thing(target="d"),
        "again": readings.Thing(target="d"),
    }
