"""Users' patterns are searched in linear time, and one that RE2 refuses is named with its reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common import safe_regex
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes.fields import FieldError

LONGEST_NAME = 63

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

HOSTILE = (
    "(a+)+$",
    "(a|a)*$",
    "(a|ab)*c",
    "((a?){9}){9}b",
    ".*.*.*.*.*b",
    "(a?)(a?)" * 12 + "b",
    "((^){30}){30}",
    "([)]+)+[(]",
    r"(\)+)+$",
    ".*" * 400 + "x",
    "a{5000000000}",
)


@pytest.mark.parametrize("pattern", USUAL)
def test_a_usual_pattern_matches_as_in_python(pattern: str) -> None:
    compiled = safe_regex.compile(pattern)
    assert compiled.pattern == pattern
    for text in ("kube-system", "openshift", "prod-qa-7", "the-team-one-test", "shop", "a.b(|){1}", "]xx", "x{y}", "b"):
        assert bool(compiled.search(text)) == bool(re.search(pattern, text)), text


def _search_quickly(pattern: str) -> None:
    before = time.process_time()
    try:
        compiled = safe_regex.compile(pattern)
    except ValueError:
        pass  # refused, which is as good as quick, if it is quick
    else:
        compiled.search("a" * LONGEST_NAME)
    assert time.process_time() - before < 1


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_hostile_pattern_cannot_stall(pattern: str) -> None:
    safe_regex.compile(pattern)
    _search_quickly(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", "missing )"),
        ("a{1001}", "invalid repetition size"),
        ("((^){1000}){1000}", "invalid repetition size"),
        ("(?=(a+))", "invalid perl operator"),
        ("(?#(a+)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        (r"\pL{1000}", "pattern too large"),
        ("\ud800", "surrogates"),
        ("a" * 1001, "shorten it to 1000"),
    ],
)
def test_a_pattern_that_re2_refuses_is_named_with_its_reason(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        safe_regex.compile(pattern)
    assert len(pattern) > 1000 or repr(pattern) in str(refused.value)


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
def test_no_pattern_takes_long(pattern: str) -> None:
    _search_quickly(pattern + "c")


def test_the_library_is_loaded_with_the_first_pattern_only() -> None:
    manifest = {"metadata": {"name": "one"}, "spec": {}}
    program = (
        "import sys\nfrom oneagent.common.dynakube import namespace_mapping\n"
        f"namespace_mapping.claim({manifest!r}, 'dynatrace')\nassert 're2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_refused_pattern_of_a_dynakube_is_named_with_its_annotation() -> None:
    annotations = {"feature.dynatrace.com/ignored-namespaces": '["^test-.*", "(?=a)"]'}
    manifest = {"metadata": {"name": "one", "annotations": annotations}, "spec": {}}
    with pytest.raises(FieldError, match=r"ignored-namespaces\].*'\(\?=a\)' is not a regular expression.*: see https:"):
        namespace_mapping.claim(manifest, "dynatrace")


class TestAListOfPatterns:
    def test_matches_what_one_of_them_matches(self) -> None:
        found = safe_regex.compile_all(["^(?P<a>prod)-", "^(?P<a>test)$", "(?i)^SHOP$"])
        matching = [text for text in ("prod-1", "test", "tests", "shop", "other") if found.search(text)]
        assert matching == ["prod-1", "test", "shop"]
        assert not safe_regex.compile_all([]).search("")

    def test_is_the_same_if_its_texts_are(self) -> None:
        assert safe_regex.compile_all(["a", "b"]) == safe_regex.compile_all(["a", "b"])
        assert safe_regex.compile_all(["a"]) != safe_regex.compile_all(["b"])

    @pytest.mark.parametrize(
        ("patterns", "reason"),
        [
            (["a"] * 201, "it has 201 patterns: use 200 at most"),
            (["[a-z]{1000}"] * 10, r"too large together, from '\[a-z\]\{1000\}' on: use fewer, or smaller repetitions"),
            ([f"(a{{{number}}}){{9}}" for number in range(2, 102)], "too large together"),
        ],
    )
    def test_has_one_budget(self, patterns: list[str], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            safe_regex.compile_all(patterns)

    def test_of_a_dynakube_that_is_too_large_is_named_with_its_annotation(self) -> None:
        annotations = {"feature.dynatrace.com/ignored-namespaces": json.dumps(["[a-z]{1000}"] * 10)}
        manifest = {"metadata": {"name": "one", "annotations": annotations}, "spec": {}}
        with pytest.raises(FieldError, match=r"ignored-namespaces\].*too large together.*use fewer"):
            namespace_mapping.claim(manifest, "dynatrace")

    def test_takes_little_memory_and_time_however_hostile(self) -> None:
        program = """if True:
            import json, resource, sys, time
            from oneagent.common import safe_regex
            safe_regex.compile_all(["a"]).search("a")
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            for pattern in ("[a-z]{49}", "(a|b)*c.{40}", "((a?){9}){5}b", ".*a.{45}"):
                patterns = safe_regex.compile_all([f"{pattern}{number}" for number in range(20)])
                for number in range(500):
                    patterns.search(f"{'ab' * 30}{number}")
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(json.dumps([grown, time.process_time() - began]))
        """
        found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        grown_kib, seconds = json.loads(found.stdout)
        assert (grown_kib < 16 << 10, seconds < 5) == (True, True), found.stdout
