"""One operator leads: by a Lease that it renews, and no longer than it can."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Mapping
from typing import Any, cast

import pytest

from oneagent.common.kubernetes.errors import ConflictError, UnavailableError
from oneagent.operator import api
from oneagent.operator.leader_election import HOLDER_POD, LeaderElection, LeaseSettings


class Server:
    """One Lease, with versions."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.away = False
        self.writes = 0
        self.written = asyncio.Condition()
        self._versions = itertools.count(1)

    async def find(self, _resource: object, _name: str, _namespace: str = "") -> dict[str, Any] | None:
        self._answer()
        return copy.deepcopy(self.lease)

    async def create(self, _resource: object, lease: Mapping[str, Any], _namespace: str = "") -> None:
        self._answer()
        if self.lease is not None:
            raise ConflictError("it exists")
        self.put(lease)

    async def replace(self, _resource: object, lease: Mapping[str, Any]) -> None:
        self._answer()
        assert self.lease is not None
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("it has changed")
        self.put(lease)
        async with self.written:
            self.written.notify_all()

    def put(self, lease: Mapping[str, Any]) -> None:
        self.writes += 1
        metadata = {**lease["metadata"], "resourceVersion": str(next(self._versions))}
        self.lease = copy.deepcopy({**lease, "metadata": metadata})

    def hold(
        self, holder: str, renewed: str = "2026-01-01T00:00:00.000000Z", seconds: int = 1, *, is_pod: bool = False
    ) -> None:
        spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": seconds, "leaseTransitions": 4}
        annotations = {HOLDER_POD: holder} if is_pod else {}
        self.put({"metadata": {"name": "oneagent-operator", "annotations": annotations}, "spec": spec})

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        return dict(self.lease["spec"])

    def _answer(self) -> None:
        if self.away:
            raise UnavailableError("503")


class World:
    def __init__(self) -> None:
        self.server, self.now = Server(), 0.0
        self.began = asyncio.Event()
        settings = LeaseSettings("oneagent-operator", "dynatrace", "me", 3.0, 0.01)
        self.pods = {"other"}
        self.election = LeaderElection(cast("api.Api", self.server), settings, lambda: self.now, self.pod_exists)

    async def pod_exists(self, identity: str) -> bool:
        return identity in self.pods

    async def work(self) -> None:
        self.began.set()
        await asyncio.Event().wait()

    async def tries(self, number: int = 5) -> None:
        """Let a candidate or the leader try some times."""
        for _ in range(number):
            await asyncio.sleep(0.02)


def test_a_leader_renews_well_before_a_candidate_may_start() -> None:
    assert LeaseSettings("a", "b", "c", lease_seconds=30.0).renew_deadline_seconds == 20.0


def test_a_lease_that_nobody_has_is_acquired_renewed_and_released() -> None:
    async def story() -> None:
        world = World()
        async with asyncio.timeout(10):
            running = asyncio.create_task(world.election.run(world.work))
            await world.began.wait()
            assert world.election.is_leader
            assert (world.server.spec["holderIdentity"], world.server.spec["leaseDurationSeconds"]) == ("me", 3)
            acquired, writes = world.server.spec["acquireTime"], world.server.writes
            async with world.server.written:
                await world.server.written.wait_for(lambda: world.server.writes >= writes + 2)
            assert (world.server.spec["acquireTime"], world.server.spec["leaseTransitions"]) == (acquired, 0)
            running.cancel()
            await asyncio.wait([running])
        assert not world.election.is_leader
        assert world.server.spec["holderIdentity"] == ""

    asyncio.run(story())


def test_it_is_undecided_until_the_lease_was_read() -> None:
    async def story() -> None:
        world = World()
        world.server.hold("other")
        world.server.away = True
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.tries()
            assert world.election.is_undecided
            world.server.away = False
            while world.election.is_undecided:
                await world.tries(1)
            assert not world.election.is_leader
            world.now = 1.1
            await world.began.wait()
            assert not world.election.is_undecided
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(story())


def test_the_work_s_end_releases_the_lease_and_its_error_is_raised() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    async def story() -> None:
        world = World()
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(10):
                await world.election.run(work)
        assert world.server.spec["holderIdentity"] == ""

    asyncio.run(story())


def test_another_s_lease_is_taken_once_it_was_not_renewed_for_its_whole_duration() -> None:
    async def story() -> None:
        world = World()
        world.server.hold("other")
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.tries()
            world.now = 1.0
            await world.tries()
            world.server.hold("other", "2026-01-01T00:00:01.000000Z")
            await world.tries()
            world.now = 2.0
            await world.tries()
            assert not world.began.is_set(), "it was renewed a duration ago, and not longer"
            world.now = 2.1
            await world.began.wait()
            assert (world.server.spec["holderIdentity"], world.server.spec["leaseTransitions"]) == ("me", 5)
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(story())


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    async def story() -> None:
        world = World()
        world.server.hold("", seconds=1000)
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.began.wait()
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(story())


def test_a_leader_that_cannot_renew_stops_at_its_deadline_and_not_before() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.began.wait()
            world.server.away = True
            world.now = 1.9
            await world.tries()
            assert world.election.is_leader
            world.now = 2.1
            await running
        assert not world.election.is_leader

    asyncio.run(story())


def test_a_leader_whose_lease_another_has_taken_stops_at_once() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.began.wait()
            world.server.hold("other")
            await running
        assert world.server.spec["holderIdentity"] == "other"

    asyncio.run(story())


def test_the_lease_of_a_pod_that_does_not_exist_is_taken_at_once() -> None:
    async def story() -> None:
        world = World()
        world.server.hold("other", seconds=1000, is_pod=True)
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.tries()
            assert not world.began.is_set(), "its pod exists"
            world.pods.clear()
            await world.began.wait()
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(story())


def test_the_lease_of_an_operator_that_runs_in_no_pod_is_awaited() -> None:
    async def story() -> None:
        world = World()
        world.pods.clear()
        world.server.hold("other", seconds=1000)
        running = asyncio.create_task(world.election.run(world.work))
        async with asyncio.timeout(10):
            await world.tries()
            assert not world.began.is_set()
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(story())


@pytest.mark.parametrize("is_pod", [False, True])
def test_the_lease_names_the_pod_of_its_holder(is_pod: bool) -> None:
    settings = LeaseSettings("oneagent-operator", "dynatrace", "me", is_pod=is_pod)
    lease = LeaderElection(cast("api.Api", None), settings)._lease({}, {})
    assert lease["metadata"]["annotations"] == {HOLDER_POD: "me" if is_pod else ""}
