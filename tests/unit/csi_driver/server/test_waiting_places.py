"""No pod and no namespace takes all places to wait."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from oneagent.csi_driver.server.waiting_places import PER_POD, WaitingPlaces


def test_a_pod_has_eight_and_another_one_of_its_namespace_has_its_own() -> None:
    places = WaitingPlaces(100)
    assert [places.take("shop", "cart") for _ in range(PER_POD)] == [""] * 8
    assert places.take("shop", "cart") == "8 other volumes are waiting of this pod, which is its share"
    assert places.take("shop", "till") == ""
    assert places.take("other", "cart") == ""


@pytest.mark.parametrize(("total", "share"), [(400, 200), (3, 1), (1, 1)])
def test_a_namespace_has_half(total: int, share: int) -> None:
    places = WaitingPlaces(total)
    assert [places.take("shop", str(pod)) for pod in range(share)] == [""] * share
    assert "is its share" in places.take("shop", "more") or total == share
    assert (places.take("other", "pod") == "") is (total > share)


def test_all_together_have_no_more_than_there_are() -> None:
    places = WaitingPlaces(4)
    assert [places.take(f"team{number}", "pod") for number in range(4)] == [""] * 4
    assert places.take("innocent", "pod") == "4 other volumes are waiting"
    places.release("team2", "pod")
    assert places.take("innocent", "pod") == ""


def test_a_call_takes_one_place_and_gives_it_back() -> None:
    places = WaitingPlaces(2)
    with ExitStack() as calls:
        place = calls.enter_context(places.reserve("shop", "cart"))
        assert [place.take(), place.take()] == ["", ""]
        assert calls.enter_context(places.reserve("other", "pod")).take() == ""
        assert calls.enter_context(places.reserve("third", "pod")).take() == "2 other volumes are waiting"
    assert [places.take("third", "pod"), places.take("shop", "cart")] == ["", ""]


def test_names_that_nothing_waits_for_are_forgotten() -> None:
    places = WaitingPlaces(2)
    for number in range(100):
        with places.reserve(f"team{number}", "pod") as place:
            place.take()
    assert not places._by_namespace
    assert not places._by_pod
