"""Repeats of Events, by the requests that they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oneagent.common.kubernetes import events

SUBJECT = events.Subject("v1", "Pod", "shop", "cart-0", "uid")
EVENT = events.Event(SUBJECT, "Warning", "NoAgentMounted", "no agent")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def aggregator(clock: Clock, **settings: Any) -> events.Aggregator:
    return events.Aggregator("oneagent-test", clock=clock, **settings)


def added(to: events.Aggregator, event: events.Event = EVENT) -> events.Write:
    write = to.add(event)
    assert write is not None
    return write


def test_a_repeat_in_the_quiet_time_costs_nothing_and_counts_later(clock: Clock) -> None:
    repeats = aggregator(clock, patch_namespace="shop")
    created = added(repeats)
    assert repeats.add(EVENT) is None
    clock.now += 61
    patch = added(repeats)
    assert (patch.verb, patch.name, patch.body["count"]) == ("patch", created.name, 3)
    assert patch.path == f"/api/v1/namespaces/shop/events/{created.name}"


def test_in_a_namespace_without_the_right_to_patch_a_late_repeat_is_created_again(clock: Clock) -> None:
    repeats = aggregator(clock, patch_namespace="dynatrace")
    first = added(repeats)
    clock.now += 61
    second = added(repeats)
    assert second.verb == "create"
    assert second.name != first.name
    assert repeats.add(EVENT) is None


def test_an_event_that_the_api_server_has_deleted_is_created_with_a_new_count(clock: Clock) -> None:
    repeats = aggregator(clock, patch_namespace="shop")
    added(repeats)
    clock.now += 3700
    again = repeats.recreate(added(repeats))
    assert (again.verb, again.body["count"]) == ("create", 1)


def test_replicas_name_an_event_alike_until_the_quiet_time_is_over(clock: Clock) -> None:
    def names(event: events.Event) -> set[str]:
        replicas = [aggregator(clock, has_replicas=True, quiet_seconds=300.0, now=clock) for _ in range(2)]
        return {added(replica, event).name for replica in replicas}

    clock.now = 3000.0
    (first,) = names(EVENT)
    clock.now += 299
    assert names(EVENT) == {first}
    assert names(replace(EVENT, message="another")) != {first}
    clock.now += 1
    assert first not in names(EVENT)


def test_an_event_about_a_state_replaces_the_last_one_with_its_reason_and_is_never_quiet(clock: Clock) -> None:
    repeats = aggregator(clock)
    written = [added(repeats, replace(EVENT, message=message, is_state=True)) for message in ("a", "b", "b")]
    path = "/api/v1/namespaces/shop/events/cart-0.noagentmounted"
    assert {(write.verb, write.path) for write in written} == {("apply", path)}
    assert [write.body["message"] for write in written] == ["a", "b", "b"]
    assert {write.body["metadata"]["name"] for write in written} == {"cart-0.noagentmounted"}


def test_an_event_whose_creation_failed_is_no_repeat(clock: Clock) -> None:
    repeats = aggregator(clock)
    repeats.discard(added(repeats))
    assert added(repeats).verb == "create"


def test_only_so_many_are_remembered(clock: Clock) -> None:
    repeats = aggregator(clock, remembered=2)
    for message in "abc":
        added(repeats, events.Event(SUBJECT, "Normal", "Mounted", message))
    assert repeats.add(events.Event(SUBJECT, "Normal", "Mounted", "c")) is None
    assert repeats.add(events.Event(SUBJECT, "Normal", "Mounted", "a")) is not None


def test_an_event_about_an_object_without_a_namespace_is_in_the_default_one(clock: Clock) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "uid": "1"}}
    write = added(aggregator(clock), events.Event(events.subject_of(node), "Normal", "Ready", "x"))
    assert write.path == "/api/v1/namespaces/default/events"
    assert write.body["involvedObject"]["namespace"] == ""
    assert write.body["metadata"]["namespace"] == "default"


def test_a_long_message_is_cut_to_what_the_api_server_takes(clock: Clock) -> None:
    write = added(aggregator(clock), events.Event(SUBJECT, "Normal", "Mounted", "x" * 5000))
    assert len(write.body["message"]) == 1024
