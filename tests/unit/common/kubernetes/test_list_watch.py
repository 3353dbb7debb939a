"""What every watch takes: pauses between attempts, and whole lines of a stream."""

from __future__ import annotations

import itertools
import json

import hypothesis
from hypothesis import strategies as st

from oneagent.common.kubernetes import list_watch


def test_after_failures_it_waits_longer_and_as_long_as_it_is_told() -> None:
    pauses = list_watch.Pauses(first=1.0, draw=lambda: 1.0)
    assert [pauses.next() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    pauses.reset()
    assert pauses.next(retry_after=10) == 11
    assert pauses.next(retry_after=1e9) == 122


@hypothesis.given(st.floats(0, 1), st.integers(0, 60))
def test_a_pause_is_drawn_from_nothing_to_the_limit(drawn: float, failures: int) -> None:
    pauses = list_watch.Pauses(draw=lambda: drawn)
    pauses.fruitless = failures
    assert 0 <= pauses.next() <= 30.0


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(st.text("a\u2028é ", max_size=5)), st.lists(st.integers(0, 60)))
def test_lines_come_whole_however_the_stream_is_cut_into_chunks(texts: list[str], cuts: list[int]) -> None:
    expected = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    whole = b"".join(line + b"\n" for line in expected) + b'"a rest'
    lines = list_watch.Lines()
    chunks = (whole[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]))
    assert [line for chunk in chunks for line in lines.add(chunk)] == expected
