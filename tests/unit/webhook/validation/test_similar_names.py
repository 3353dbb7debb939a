"""Guesses at misspelt names find them, and never say the contrary."""

from __future__ import annotations

from typing import Final

import pytest

from oneagent.common.dynakube.api import feature_flags
from oneagent.webhook.validation import similar_names

NAMES: Final = [feature.name for feature in feature_flags.FEATURES.values() if feature.handled]
NEGATIONS: Final = ("no-", "not-", "non-", "un", "dis", "de", "never-", "without-", "disabled-", "block-", "off-")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_a_negation_anywhere_is_not_taken_for_the_name(name: str) -> None:
    words = name.split("-")
    for place, word in enumerate(words):
        for negation in NEGATIONS:
            contrary = "-".join((*words[:place], negation + word, *words[place + 1 :]))
            assert name not in similar_names.find(contrary, NAMES), contrary


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_a_letter_too_few_or_twice_is_found(name: str) -> None:
    longest = max(name.split("-"), key=len)
    for misspelt in (longest[:2] + longest[3:], longest[:3] + longest[2:]):
        assert similar_names.find(name.replace(longest, misspelt), NAMES) == [name]


@pytest.mark.parametrize(
    ("one", "other"),
    [("enabled", "disabled"), ("included", "excluded"), ("increase", "decrease"), ("private", "public")],
)
def test_words_that_look_alike_and_say_the_contrary_are_told_apart(one: str, other: str) -> None:
    assert not similar_names.is_same(one, other)
    assert not similar_names.is_same(other, one)
