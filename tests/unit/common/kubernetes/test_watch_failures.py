"""Watches that fail: how long the pauses are, and when a list follows."""

from __future__ import annotations

import msgspec
import pytest

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.server_model import PATH, read
from tests.unit.common.kubernetes.watching import Watching, bookmark, change


def test_a_connection_that_could_not_be_opened_in_time_does_not_reset_the_pauses() -> None:
    now = [0.0]
    retry = backoff.Backoff(1, 30, draw=lambda: 1.0)
    state = list_watch.ListWatch(list_watch.Collection(PATH), read, retry=retry, clock=lambda: now[0])
    pauses = []
    for _ in range(4):
        state.next_request()
        now[0] += 10
        pauses.append(state.end_attempt(errors.UnavailableError("connect timeout")))
    assert pauses == [1, 2, 4, 8]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503, 504, 0, 799])
@pytest.mark.parametrize("stood", [0.0, 60.0], ids=["at once", "after a minute"])
@pytest.mark.parametrize("as_event", [False, True], ids=["as a response", "as an event"])
def test_whatever_status_an_unknown_version_is_answered_with_a_list_follows_the_third_attempt(
    code: int, stood: float, as_event: bool
) -> None:
    watching, attempts = Watching(), 0
    while watching.state.version:
        attempts += 1
        status = errors.Status(code, "Weird", "not now")
        if as_event:
            error = {"type": "ERROR", "object": msgspec.to_builtins(status)}
            watching.watch(stood, error)
        else:
            watching.watch(stood, error=errors.from_status("GET", status))
        assert attempts <= 3


def test_a_version_lower_than_the_last_is_another_history_and_leads_to_a_list() -> None:
    watching = Watching()
    watching.watch(change(12))
    assert watching.state.version == "12"
    watching.watch(change(11, "b"))
    assert watching.state.version == ""


def test_versions_that_are_no_numbers_are_not_compared() -> None:
    watching = Watching()
    named = bookmark(0)
    for version in ("b", "a"):
        named["object"]["metadata"]["resourceVersion"] = version
        watching.watch(named)
        assert watching.state.version == version


def test_an_event_that_comes_again_and_again_is_no_progress() -> None:
    watching = Watching()
    assert [watching.watch(change(11)) for _ in range(4)] == [1, 2, 4, 8]
    assert watching.state.version == ""
    watching = Watching()
    assert [watching.watch(change(11 + number)) for number in range(5)] == [1] * 5
