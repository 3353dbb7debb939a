from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources.dynakube_watch import DynaKubeWatch
from tests.unit.csi_driver.dynakube_sources.following import manifest


def page(*objects: dict[str, Any], version: int = 1, token: str = "") -> bytes:
    metadata = {"resourceVersion": str(version)} | ({"continue": token} if token else {})
    return json.dumps({"metadata": metadata, "items": objects}).encode()


def change(kind: str, obj: dict[str, Any], version: int = 2) -> bytes:
    obj = {**obj, "metadata": {**obj.get("metadata", {}), "resourceVersion": str(version)}}
    return json.dumps({"type": kind, "object": obj}, ensure_ascii=False).encode() + b"\n"


class Script:
    """An `Api` that answers from a script, and stops the watch at its end."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.stop = threading.Event()
        self.waited: list[float] = []
        self.now = 0.0
        self.reports: list[dynakube_sources.Snapshot] = []

    def _next(self, asked: str) -> Any:
        self.asked.append(asked)
        answer = self.answers.pop(0)
        if not self.answers:
            self.stop.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, request: list_watch.ListRequest) -> bytes:
        answer: bytes = self._next(f"list {request.query.get('continue', '')}".strip())
        return answer

    @contextlib.contextmanager
    def stream(self, request: list_watch.WatchRequest) -> Iterator[Iterator[bytes]]:
        yield self._chunks(self._next(f"watch {request.query['resourceVersion']}"))

    def _chunks(self, chunks: list[bytes | float | Exception]) -> Iterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, bytes):
                yield chunk
            else:
                self.now += chunk

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def run(self) -> DynaKubeWatch:
        retry = backoff.Backoff(list_watch.FIRST_PAUSE, list_watch.LONGEST_PAUSE, draw=lambda: 1.0)
        found = DynaKubeWatch(self, retry=retry, clock=lambda: self.now, wait=self._wait)
        # The end of the script must not hide what it said last.
        found.run(self.reports.append, self.stop)
        return found

    def names(self) -> list[set[str]]:
        return [set(report.dynakubes) for report in self.reports]


END: list[object] = []
CUT = errors.UnavailableError("cut")


def test_pages_are_read_to_the_end_before_anything_is_reported() -> None:
    script = Script(page(manifest("a"), token="more"), page(manifest("b"), version=7), END, END)
    script.run()
    assert script.asked == ["list", "list more", "watch 7", "watch 7"]
    assert script.names() == [{"a", "b"}]


def test_an_empty_cluster_is_reported_too() -> None:
    script = Script(page(), END)
    script.run()
    assert script.names() == [set()]


def test_a_cut_stream_is_taken_up_where_it_ended_without_a_list() -> None:
    script = Script(page(), [change("ADDED", manifest("a"), 5), CUT], END, END)
    script.run()
    assert script.asked == ["list", "watch 1", "watch 5", "watch 5"]
    assert script.names() == [set(), {"a"}]


def test_bookmarks_move_the_version_on_and_report_nothing() -> None:
    script = Script(page(), [change("BOOKMARK", {}, 90)], END, END)
    script.run()
    assert script.asked[-1] == "watch 90"
    assert len(script.reports) == 1


def test_a_change_that_does_not_concern_a_node_is_not_reported() -> None:
    touched = {**manifest("a"), "status": {"updatedTimestamp": "2026-01-01T00:00:00Z"}}
    script = Script(page(manifest("a")), [change("MODIFIED", touched)], END)
    script.run()
    assert len(script.reports) == 1


def test_gone_as_a_status_leads_to_a_new_list() -> None:
    script = Script(page(manifest("a")), errors.GoneError("410"), page(manifest("b"), version=9), END, END)
    script.run()
    assert script.asked == ["list", "watch 1", "list", "watch 9", "watch 9"]
    assert script.names() == [{"a"}, {"b"}]


def test_gone_as_an_event_leads_to_a_new_list() -> None:
    gone = change("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    script = Script(page(manifest("a")), [gone], page(version=9), END, END)
    script.run()
    assert script.asked == ["list", "watch 1", "list", "watch 9", "watch 9"]
    assert script.names() == [{"a"}, set()]


def test_another_error_event_is_no_reason_for_a_list() -> None:
    error = change("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError"})
    script = Script(page(), [error], END, END)
    script.run()
    assert script.asked == ["list", "watch 1", "watch 1", "watch 1"]


def test_a_version_that_leads_nowhere_is_given_up() -> None:
    script = Script(page(), CUT, CUT, CUT, page(version=4), END, END)
    script.run()
    assert script.asked == ["list", *["watch 1"] * 3, "list", "watch 4", "watch 4"]


def test_lines_may_come_in_any_pieces_and_half_a_line_is_dropped() -> None:
    text = "zone\u2028x"  # A line break to str.splitlines(), but not in JSON.
    odd = {**manifest("a"), "extra": text}
    whole = change("ADDED", odd, 3) + change("ADDED", manifest("b"), 4)
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    script = Script(page(), [*pieces, change("ADDED", manifest("c"), 5)[:-20]], END, END)
    script.run()
    assert script.names()[-1] == {"a", "b"}
    assert script.asked[-1] == "watch 4"


def test_a_dynakube_that_cannot_be_used_is_reported_with_its_reason() -> None:
    script = Script(page(manifest("a"), manifest("bad", apiUrl="x")), [change("MODIFIED", manifest("bad"))], END)
    script.run()
    first, second = script.reports
    assert set(first.dynakubes) == {"a"}
    assert "spec.apiUrl" in first.invalid["bad"]
    assert (set(second.dynakubes), second.invalid) == ({"a", "bad"}, {})


@pytest.mark.parametrize("nonsense", [b"<html>\n", b'{"type": 7}\n', b"[" * 100_000 + b"\n", b'"\xff"\n'])
def test_nonsense_in_the_stream_is_an_error_like_any_other(nonsense: bytes) -> None:
    script = Script(page(manifest("a")), [nonsense], END, END)
    script.run()
    assert script.names() == [{"a"}]


def test_pauses_double_to_a_limit_and_start_anew_after_an_event() -> None:
    refused = [errors.UnavailableError("refused")] * 9
    script = Script(*refused, page(), [change("ADDED", manifest("a"))], END, END)
    script.run()
    assert script.waited[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert script.waited[9] == 0.5


def test_a_watch_that_stood_for_a_while_is_no_failure() -> None:
    script = Script(page(), *[[300.0, change("BOOKMARK", {}, 90 + number)] for number in range(5)], END)
    script.run()
    assert set(script.waited) == {0.5}
    assert script.asked == ["list", "watch 1", *(f"watch {90 + number}" for number in range(5))]


def test_a_stream_that_ends_at_once_each_time_is_asked_for_ever_more_slowly_and_listed_at_each_third_time() -> None:
    thrice: list[object] = [page(), END, END, END]
    script = Script(*thrice * 3)
    script.run()
    assert script.waited == sorted(script.waited)
    assert script.waited[-1] > 4
    assert script.asked == ["list", "watch 1", "watch 1", "watch 1"] * 3


def test_without_bookmarks_no_version_is_trusted_for_longer_than_three_watches() -> None:
    quiet: list[object] = [page(), [90.0], [90.0], [90.0]]
    script = Script(*quiet, page(manifest("a"), version=9), END)
    script.run()
    assert script.asked == ["list", "watch 1", "watch 1", "watch 1", "list", "watch 9"]
    assert script.names() == [set(), {"a"}]


def test_the_server_is_given_the_time_it_asks_for() -> None:
    script = Script(errors.UnavailableError("429", retry_after=7.0), page(), END)
    script.run()
    assert script.waited[0] == 7.5


def test_a_server_that_is_away_is_not_silent_but_one_that_does_not_answer_is() -> None:
    script = Script(*[errors.UnavailableError("refused")] * 200)
    found = script.run()
    assert script.now > 3600
    assert found.silent_seconds() == 0
    script.now += 1000
    assert found.silent_seconds() > 900
