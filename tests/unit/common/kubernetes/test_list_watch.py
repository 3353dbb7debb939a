"""Whole lines of a stream."""

from __future__ import annotations

import itertools
import json

import hypothesis
from hypothesis import strategies as st

from oneagent.common.kubernetes import list_watch


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(st.text("a\u2028é ", max_size=5)), st.lists(st.integers(0, 60)))
def test_lines_come_whole_however_the_stream_is_cut_into_chunks(texts: list[str], cuts: list[int]) -> None:
    expected = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    whole = b"".join(line + b"\n" for line in expected) + b'"a rest'
    lines = list_watch.Lines()
    chunks = (whole[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]))
    assert [line for chunk in chunks for line in lines.add(chunk)] == expected
