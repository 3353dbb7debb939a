"""Which regular expressions of users are taken, and that none of them takes for ever."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common import safe_regex
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes.fields import FieldError

USUAL = (
    "^kube-.*",
    "^openshift(-.*)?$",
    "^prod-(dev|test|qa)-[0-9]+$",
    ".*-team-.*-test.*",
    "(?i)^SHOP$",
    r"^a\.b\(\|\)\{1\}$",
    "[]^a-z*+(]{1,63}x{2,}",
    "x{y}",
    "^(?:a|b)(?P<rest>.*)$",
)


@pytest.mark.parametrize("pattern", USUAL)
def test_what_is_usual_is_taken(pattern: str) -> None:
    assert safe_regex.compile(pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a|ab)*c",
        "((a?){9}){9}b",
        ".*.*.*.*.*b",
        "(a?)(a?)" * 12 + "b",
        "((^){1000}){1000}",
        "([)]+)+[(]",
        r"(\)+)+$",
    ],
)
def test_what_may_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="may take too long"):
        safe_regex.compile(pattern)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "no regular expression"),
        ("a{5000000000}", "no regular expression"),
        ("a{1001}", "more than 1000 times"),
        ("a{,1001}", "more than 1000 times"),
        ("(?=(a+))", "there are only"),
        ("(?x)(a+) +", "there are only"),
        ("(?#(a+)", "there are only"),
        ("a" * 1001, "1000 characters"),
    ],
)
def test_what_cannot_be_counted_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        safe_regex.compile(pattern)


_PIECES = st.recursive(
    st.sampled_from(["a", ".", "[ab]", r"\w", "b", "^", "$"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,3}", "{2,}"])).map(
            lambda it: f"({it[0]}){it[1]}"
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(_PIECES)
def test_what_is_taken_is_searched_in_no_time(pattern: str) -> None:
    try:
        compiled = safe_regex.compile(pattern + "c")
    except ValueError:
        return
    before = time.process_time()
    assert not compiled.search("a" * safe_regex.LONGEST_TEXT)
    assert time.process_time() - before < 1


def test_a_dynakube_with_such_a_pattern_is_told_which() -> None:
    annotations = {"feature.dynatrace.com/ignored-namespaces": '["^test-.*", "(a+)+$"]'}
    manifest = {"metadata": {"name": "one", "annotations": annotations}, "spec": {}}
    with pytest.raises(FieldError, match=r"ignored-namespaces\].*'\(a\+\)\+\$' may take too long"):
        namespace_mapping.claim(manifest, "dynatrace")
