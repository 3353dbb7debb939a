"""One call at a time for each volume, and ways to make a waiting one give up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.server.errors import CallInFlightError
from oneagent.csi_driver.server.inflight import Call, InFlightCalls

ONE, OTHER = VolumeId("one"), VolumeId("other")


@pytest.fixture
def woken() -> list[Call]:
    return []


@pytest.fixture
def calls(woken: list[Call]) -> InFlightCalls:
    return InFlightCalls(woken.extend)


def test_a_second_call_for_a_volume_is_told_so(calls: InFlightCalls) -> None:
    with calls.hold(ONE, "a publish"):
        with pytest.raises(CallInFlightError, match="one: a publish is under way"), calls.hold(ONE, "an unpublish"):
            pass
        with calls.hold(OTHER, "a publish"):
            pass
    with calls.hold(ONE, "an unpublish"):
        pass


def test_a_call_that_fails_frees_its_volume(calls: InFlightCalls) -> None:
    with pytest.raises(RuntimeError), calls.hold(ONE, "a publish"):
        raise RuntimeError
    with calls.hold(ONE, "a publish"):
        pass


def test_an_opposite_call_asks_the_one_under_way_to_give_up(calls: InFlightCalls, woken: list[Call]) -> None:
    with calls.hold(ONE, "a publish") as publish, calls.hold(OTHER, "a publish") as other:
        with pytest.raises(CallInFlightError), calls.hold(ONE, "an unpublish", cancel_other=True):
            pass
        assert (publish.cancelled, other.cancelled, len(woken)) == (True, False, 1)


def test_a_call_that_has_ended_can_not_be_cancelled_in_its_successors_place(
    calls: InFlightCalls, woken: list[Call]
) -> None:
    with calls.hold(ONE, "a publish") as old:
        pass
    with calls.hold(ONE, "a publish") as new:
        calls.cancel(ONE, old)
        assert (new.cancelled, woken) == (False, [])


def test_at_the_end_all_calls_give_up_and_those_that_still_come_too(calls: InFlightCalls, woken: list[Call]) -> None:
    with calls.hold(ONE, "a publish") as call:
        calls.cancel_all()
        assert (call.cancelled, len(woken)) == (True, 1)
    with calls.hold(OTHER, "a publish") as late:
        assert late.cancelled


def test_of_many_threads_exactly_one_holds_a_volume(calls: InFlightCalls) -> None:
    barrier = threading.Barrier(8)
    inside: list[Call] = []

    def attempt(_number: int) -> int:
        barrier.wait()
        entered = 0
        for _ in range(200):
            try:
                with calls.hold(ONE, "a publish") as call:
                    inside.append(call)
                    assert inside == [call]
                    inside.remove(call)
                    entered += 1
            except CallInFlightError:
                pass
        return entered

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(8))) > 0
