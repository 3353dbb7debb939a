"""A download that breaks goes on where it was, if and only if the server proves that it is the same file."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneagent.common.http import download
from tests.fakes.tenant import Fault
from tests.unit.common.http.download.bench import SIZE, VERSION, Bench


def test_a_whole_file_arrives_with_its_digest_and_nothing_else_stays(bench: Bench) -> None:
    done = bench.download(expected_size=SIZE, expected_sha256=hashlib.sha256(bench.content).hexdigest().upper())
    assert bench.into.read_bytes() == bench.content
    assert (done.path, done.size, done.is_temporary, done.resumed_at) == (bench.into, SIZE, True, 0)
    assert done.sha256 == hashlib.sha256(bench.content).hexdigest()
    assert bench.leftovers() == ["package.zip"]
    assert bench.pauses == []


@given(cuts=st.lists(st.integers(0, SIZE), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_connection_cut_at_any_byte_is_continued_there(bench: Bench, cuts: list[int]) -> None:
    bench.server.requests.clear()
    bench.server.plan("package", *(Fault(cut_after=cut) for cut in cuts))
    done = bench.download(attempts=6)
    assert bench.into.read_bytes() == bench.content
    assert done.sha256 == hashlib.sha256(bench.content).hexdigest()
    assert bench.ranges()[0] == ""
    if 0 < cuts[0] < SIZE:
        assert bench.ranges()[1] == f"bytes={cuts[0]}-"
    bench.server.clear_faults()


def test_a_new_process_goes_on_where_the_old_one_stopped(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=123_456))
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=1)
    assert bench.leftovers() == ["package.zip.part", "package.zip.part.json"]
    assert "SECRET" not in bench.part.with_name("package.zip.part.json").read_text()
    done = bench.download()
    assert bench.ranges() == ["", "bytes=123456-"]
    assert done.resumed_at == 123_456
    assert bench.into.read_bytes() == bench.content


def test_a_file_that_is_whole_but_was_not_renamed_is_not_fetched_again(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=100))
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=1)
    bench.part.write_bytes(bench.content)
    bench.download()
    assert bench.server.count("package") == 1
    assert bench.into.read_bytes() == bench.content


@pytest.mark.parametrize("spoil", ["boot", "source", "torn", "missing"])
def test_a_part_that_cannot_be_trusted_is_begun_anew(bench: Bench, spoil: str) -> None:
    bench.server.plan("package", Fault(cut_after=1000))
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=1)
    state = bench.part.with_name("package.zip.part.json")
    if spoil == "missing":
        state.unlink()
    elif spoil == "torn":
        state.write_text(state.read_text()[:20])
    else:
        state.write_text(json.dumps({**json.loads(state.read_text()), spoil: "other"}))
    bench.download()
    assert bench.ranges() == ["", ""]
    assert bench.into.read_bytes() == bench.content


def test_a_file_that_changed_meanwhile_is_begun_anew(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000))
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=1)
    other = bench.folder.parent / "other"
    other.write_bytes(b"other" * 1000)
    bench.server.release(VERSION, other)
    bench.download()
    assert bench.into.read_bytes() == other.read_bytes()


def test_a_server_without_ranges_starts_from_zero(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(ignore_range=True))
    bench.download()
    assert bench.into.read_bytes() == bench.content


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_a_server_that_refuses_to_continue_is_asked_for_the_whole(bench: Bench, status: int) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(status=status))
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", ""]
    assert len(bench.pauses) == 1, "of the broken connection"
    assert bench.into.read_bytes() == bench.content


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_server_that_fails_to_continue_twice_is_asked_for_the_whole(bench: Bench, status: int) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(status=status), Fault(status=status))
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", "bytes=1000-", ""]
    assert bench.into.read_bytes() == bench.content


def test_a_server_that_refuses_both_is_quoted_for_the_whole_and_what_came_stays(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(status=403), Fault(status=404))
    with pytest.raises(download.DownloadSourceError, match="answered 404"):
        bench.download()
    bench.download()
    assert bench.ranges()[-1] == "bytes=1000-"


def test_a_failure_in_the_middle_of_a_download_costs_no_bytes(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(status=502))
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", "bytes=1000-"]


def test_without_a_strong_etag_the_date_is_the_proof(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000, headers={"ETag": 'W/"weak"'}))
    bench.download()
    asked = bench.server.requests[-1].headers
    assert asked["Range"] == "bytes=1000-"
    assert asked["If-Range"].endswith("GMT")
    assert bench.into.read_bytes() == bench.content


def test_without_any_proof_it_starts_from_zero(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000, headers={"ETag": "", "Last-Modified": ""}))
    bench.download()
    assert bench.ranges() == ["", ""]
    assert bench.into.read_bytes() == bench.content


@pytest.mark.parametrize(
    "said",
    [
        f"bytes 999-{SIZE - 1}/{SIZE}",
        f"bytes 1000-{SIZE - 2}/{SIZE}",
        f"bytes 1000-{SIZE}/{SIZE + 1}",
        "bytes 1000-299999/*",
        "",
    ],
)
def test_a_part_from_another_place_is_refused_and_all_of_it_fetched_again(bench: Bench, said: str) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(headers={"Content-Range": said}))
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", ""]
    assert bench.into.read_bytes() == bench.content


def test_a_part_of_another_file_is_refused_and_all_of_it_fetched_again(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000), Fault(headers={"ETag": '"other"'}))
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", ""]
    assert bench.into.read_bytes() == bench.content


def test_nothing_beyond_the_end_is_taken_for_the_end_only_if_the_length_says_so(bench: Bench) -> None:
    bench.server.plan(
        "package",
        Fault(cut_after=1000),
        Fault(status=416, headers={"Content-Range": "bytes */1234"}),
    )
    bench.download()
    assert bench.ranges() == ["", "bytes=1000-", ""]
    assert bench.into.read_bytes() == bench.content


def test_two_halves_that_do_not_fit_are_fetched_again_as_one(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000, flip=10))
    bench.download(expected_sha256=hashlib.sha256(bench.content).hexdigest())
    assert bench.ranges() == ["", "bytes=1000-", ""]
    assert bench.into.read_bytes() == bench.content
