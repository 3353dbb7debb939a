"""Lines of a stream, errors by the status of a response, and the memory that the module costs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.kubernetes import errors, list_watch


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", errors.NotFoundError),
        (401, "Unauthorized", errors.ForbiddenError),
        (403, "Forbidden", errors.ForbiddenError),
        (409, "Conflict", errors.ConflictError),
        (410, "Gone", errors.GoneError),
        (0, "Expired", errors.GoneError),
        (422, "Invalid", errors.InvalidError),
        (429, "TooManyRequests", errors.UnavailableError),
        (500, "InternalError", errors.UnavailableError),
    ],
)
def test_a_status_says_which_error_it_is(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    error = errors.from_status("GET /x", errors.Status(code, reason, "some text"), 3.0)
    assert type(error) is kind
    assert "GET /x" in str(error) and "some text" in str(error)
    assert getattr(error, "retry_after", 3.0) == 3.0


def test_it_costs_no_client_in_memory() -> None:
    code = "import sys, oneagent.common.kubernetes.list_watch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx", "httpx2", "aiohttp", "kubernetes", "lightkube", "yaml", "asyncio"} & set(loaded)


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(st.text("a\u2028é ", max_size=5)), st.lists(st.integers(0, 60)))
def test_lines_come_whole_however_the_stream_is_cut_into_chunks(texts: list[str], cuts: list[int]) -> None:
    expected = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    whole = b"".join(line + b"\n" for line in expected) + b'"a rest'
    lines = list_watch.Lines()
    chunks = (whole[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]))
    assert [line for chunk in chunks for line in lines.add(chunk)] == expected
