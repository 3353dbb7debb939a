"""Conditions keep the time at which their status last changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from oneagent.common.kubernetes import conditions


class Result(NamedTuple):
    status: str
    reason: str = "Why"
    message: str = "as it is"


def condition(kind: str, status: str, since: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "lastTransitionTime": since}


def test_a_status_that_stays_keeps_its_time_and_a_changed_or_new_one_has_the_present() -> None:
    before = [
        condition("Same", "True", "2020-01-01T00:00:00Z"),
        condition("Changed", "True", "2020-01-01T00:00:00Z"),
        condition("Gone", "True", "2020-01-01T00:00:00Z"),
        {"type": "Timeless", "status": "True"},
    ]
    results = {"Same": Result("True"), "Changed": Result("False"), "New": Result("True"), "Timeless": Result("True")}
    merged = conditions.merge(before, results, 7, 1_000_000_000.0)
    assert [(each["type"], each["lastTransitionTime"]) for each in merged] == [
        ("Changed", "2001-09-09T01:46:40Z"),
        ("New", "2001-09-09T01:46:40Z"),
        ("Same", "2020-01-01T00:00:00Z"),
        ("Timeless", "2001-09-09T01:46:40Z"),
    ]
    assert merged[0] | {"lastTransitionTime": ""} == {
        "type": "Changed",
        "status": "False",
        "reason": "Why",
        "message": "as it is",
        "lastTransitionTime": "",
        "observedGeneration": 7,
    }


def test_a_long_message_is_cut_to_what_the_api_server_accepts() -> None:
    (merged,) = conditions.merge([], {"Long": Result("True", message="x" * 40_000)}, 1, 0.0)
    assert len(merged["message"]) <= 32_768
