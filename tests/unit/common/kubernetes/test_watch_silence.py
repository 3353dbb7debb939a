"""Servers that send nothing: when that is noticed, and what is reported."""

from __future__ import annotations

from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.server_model import PATH, read
from tests.unit.common.kubernetes.watching import Watching, bookmark, change, silence


def test_a_stream_that_falls_silent_leads_to_a_list_at_once() -> None:
    watching = Watching()
    watching.watch(bookmark(11), 115.0, error=errors.SilentError("nothing came"))
    assert watching.state.version == ""
    watching.list(11)
    assert watching.state.problem == ""


def test_every_way_to_notice_a_silent_server_leaves_time_to_act_within_150_seconds() -> None:
    periods = list_watch.DEFAULT_PERIODS
    # Bookmarks come every minute; a watch without them ends after four thirds of the time at most.
    assert max(62.5, periods.quiet * 4 / 3) + 10 <= periods.silence() <= 120
    nodes = Watching(list_watch.NODE_PERIODS)
    nodes.watch(61.0, bookmark(11))
    assert silence(nodes) == periods.silence()


class TestSilence:
    def test_is_told_when_nothing_came_for_longer_than_a_new_connection_takes(self) -> None:
        watching = Watching()
        watching.state.next_request()
        watching.now += 130
        assert watching.state.silence == ""
        watching.now += 1
        assert watching.state.silence == f"watch of {PATH}: no response for 131 s"
        watching.state.end_attempt(errors.SilentError("nothing came"))
        watching.list(12)
        assert watching.state.silence == ""

    def test_ends_with_any_event_and_with_the_end_of_a_stream(self) -> None:
        watching = Watching()
        for event in (bookmark(11), change(12)):
            watching.now += 100
            watching.watch(event)
            assert watching.state.silent_seconds == 0
        watching.watch(100.0)
        assert watching.state.silent_seconds == 0

    def test_lasts_over_requests_that_get_no_response_in_time(self) -> None:
        watching = Watching()
        watching.watch(115.0, error=errors.SilentError("nothing came"))
        for _ in range(3):
            watching.state.next_request()
            watching.now += 15
            watching.state.end_attempt(errors.SilentError("nothing came"))
        assert watching.state.silent_seconds == 160

    def test_is_not_what_a_server_that_refuses_has_fallen_into(self) -> None:
        watching = Watching()
        for _ in range(200):
            watching.state.next_request()
            watching.now += watching.state.end_attempt(errors.UnavailableError("refused", retry_after=120))
        assert watching.state.silent_seconds == 0

    def test_does_not_begin_before_the_first_request(self) -> None:
        now = [0.0]
        state = list_watch.ListWatch(list_watch.Collection(PATH), read, clock=lambda: now[0])
        now[0] += 5000
        assert (state.silent_seconds, state.silence) == (0, "")
