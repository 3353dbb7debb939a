"""When a pod has waited long enough: the rule of `attempts`, for any limits and any sequence of calls."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.server import mount_policy, request_validation
from oneagent.csi_driver.server.mount_policy import Failures, RetryLimits
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.store import AgentStore, store_key

FOR_EVER = 1e12
gaps = st.lists(st.floats(min_value=0, max_value=1000), min_size=1, max_size=40)


def calls_until_empty(limits: RetryLimits, waits: list[float]) -> tuple[int, float, float]:
    """How many calls fail, when the first failed, and when the one that ends it comes. Each call fails at once."""
    now, failures = 1.0, Failures()
    for wait in [*waits, *[1000.0] * 2000]:
        now += wait
        if limits.exhausted_reason(failures, now):
            return failures.attempts, failures.first_at, now
        failures = failures.increment(now)
    raise AssertionError("it never ends")


@given(limit=st.integers(0, 50), waits=gaps)
def test_a_limit_of_n_lets_exactly_n_calls_fail(limit: int, waits: list[float]) -> None:
    assert calls_until_empty(RetryLimits(limit, FOR_EVER), waits)[0] == limit


@given(timeout=st.floats(min_value=0, max_value=10_000), waits=gaps)
def test_a_timeout_ends_it_with_the_first_call_that_comes_after_it(timeout: float, waits: list[float]) -> None:
    failed, first_at, ended = calls_until_empty(RetryLimits(10**9, timeout), waits)
    assert failed >= 1, "the first call has nothing to count from"
    assert ended >= first_at + timeout


@given(limit=st.integers(0, 20), timeout=st.floats(min_value=0, max_value=10_000), waits=gaps)
def test_whichever_is_first_ends_it(limit: int, timeout: float, waits: list[float]) -> None:
    failed, _, ended = calls_until_empty(RetryLimits(limit, timeout), waits)
    assert failed == limit or (failed < limit and ended == calls_until_empty(RetryLimits(10**9, timeout), waits)[2])


@given(
    first=st.floats(min_value=1, max_value=1e9), timeout=st.floats(min_value=0, max_value=1e6), later=st.floats(0, 1e6)
)
def test_a_wait_for_as_long_as_is_left_ends_in_an_empty_view(first: float, timeout: float, later: float) -> None:
    failures, limits = Failures(1, first), RetryLimits(10**9, timeout)
    left = limits.seconds_left(failures, first + later)
    assert (left <= 0) == bool(limits.exhausted_reason(failures, first + later)) or abs(left) < 1e-3


def test_a_volume_that_never_failed_has_all_the_time_in_the_world() -> None:
    assert RetryLimits(1, 0.0).seconds_left(Failures(), 5.0) == float("inf")


@given(calls=st.lists(st.floats(min_value=1, max_value=1e9), min_size=1))
def test_failures_remember_how_many_and_when_the_first_was(calls: list[float]) -> None:
    failures = Failures()
    for now in calls:
        failures = failures.increment(now)
    assert failures == Failures(len(calls), calls[0])


def test_the_reason_names_the_limit_that_was_reached() -> None:
    assert RetryLimits(3, 600.0).exhausted_reason(Failures(3, 1.0), 2.0) == "3 mount attempts failed (the limit is 3)"
    assert RetryLimits(3, 600.0).exhausted_reason(Failures(1, 1.0), 601.0) == (
        "mount attempts failed for 600 s (the mount timeout)"
    )
    assert RetryLimits(3, 600.0).exhausted_reason(Failures(1, 1.0), 600.9) == ""


def asked(retry_timeout: str = "", failure_policy: str = "") -> PublishRequest:
    """Return the request of a pod."""
    request = csi_pb2.NodePublishVolumeRequest(volume_id="v", target_path="/pods/v")
    request.volume_capability.mount.SetInParent()
    request.volume_context.update(
        {
            request_validation.POD_NAME: "a",
            request_validation.POD_NAMESPACE: "b",
            "mode": "app",
            "dynakube": "demo",
            "retryTimeout": retry_timeout,
            "failurePolicy": failure_policy,
        }
    )
    return request_validation.publish(request, "/pods")


def desired(**fields: Any) -> DesiredState:
    return DesiredState(DynaKubeName("demo"), **fields)


def test_a_pod_with_a_shorter_timeout_of_its_own_is_no_evidence_against_its_dynakube() -> None:
    row = desired(mount_timeout_seconds=60.0)
    found = [mount_policy.is_impatient(asked(timeout), row) for timeout in ("1ms", "59s", "60s", "1h", "")]
    assert found == [True, True, False, False, False]


def test_the_limits_are_the_dynakubes_and_the_timeout_the_pods_if_it_has_one() -> None:
    row = desired(mount_attempts=3, mount_timeout_seconds=60.0)
    assert mount_policy.retry_limits(asked(), row) == RetryLimits(3, 60.0)
    assert mount_policy.retry_limits(asked("5s"), row) == RetryLimits(3, 5.0)


def test_of_a_dynakube_that_is_not_known_the_limits_are_the_usual_ones() -> None:
    assert mount_policy.retry_limits(asked(), None) == RetryLimits(10, 600.0)


def test_with_fail_there_are_no_limits_whatever_the_pod_says() -> None:
    row = desired(mount_policy="fail", mount_attempts=3)
    assert mount_policy.retry_limits(asked("5s"), row) == RetryLimits(math.inf, math.inf)


@pytest.mark.parametrize(
    ("policy", "at_once", "after_waiting"),
    [
        ("wait-then-last-good", False, True),
        ("last-good", True, True),
        ("wait", False, False),
        ("fail", False, False),
    ],
)
def test_the_last_good_version_is_for_two_of_the_policies(
    tmp_path: Path, policy: str, at_once: bool, after_waiting: bool
) -> None:
    data = DataDir(tmp_path)
    data.create()
    store = AgentStore(data)
    good, wanted = (store_key.of_version(Version(version), "tests") for version in ("1.0", "2.0"))
    row = desired(mount_policy=policy, version=wanted, good_version=good, good_layer=LayerId("a"))
    assert mount_policy.fallback_version(row, store, waited=True) is None, "it is not in the store"
    (data.agents / good).mkdir()
    found = [mount_policy.fallback_version(row, store, waited=waited) for waited in (False, True)]
    assert [each is not None and each.version == good for each in found] == [at_once, after_waiting]
    same = dataclasses.replace(row, version=good)
    assert mount_policy.fallback_version(same, store, waited=True) is None


def test_failures_have_lasted_since_the_first() -> None:
    assert not Failures().have_lasted(0.0, 1e9)
    assert [Failures(1, 10.0).have_lasted(60.0, now) for now in (69.0, 70.0)] == [False, True]


def test_a_pod_with_the_failure_policy_fail_has_no_limits_whatever_its_dynakube_says() -> None:
    for row in (None, desired(mount_attempts=0, mount_timeout_seconds=0.0)):
        assert mount_policy.retry_limits(asked("1s", "fail"), row) == RetryLimits(math.inf, math.inf)
