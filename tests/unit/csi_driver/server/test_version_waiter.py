"""Waiting calls wake when what they depend on changes, and at nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.metadata import desired_versions
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.server import version_waiter
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.version_waiter import VersionWaiter
from oneagent.csi_driver.store import AgentStore, store_key

LONG_SECONDS = 60.0
"""A call that nothing wakes waits longer than its test."""
DEMO, OTHER = DynaKubeName("demo"), DynaKubeName("other")
VERSIONS = [store_key.of_version(Version(f"1.{number}"), "the tests") for number in range(3)]


class Node:
    """A store, a database that the provisioner writes, and the server's waiter."""

    def __init__(
        self,
        place: Path,
        store: type[AgentStore] = AgentStore,
        desired: type[DesiredStateReader] = DesiredStateReader,
    ) -> None:
        self.data = DataDir(place)
        self.data.create()
        self.store = store(self.data)
        self._written, self.read = (Database(self.data.database, self.data.database_lock) for _ in range(2))
        self.desired = desired(self.read, self.data.dynakubes)
        self.waiter = VersionWaiter(self.data, self.store, self.desired)
        self.calls = InFlightCalls(self.waiter.wake)

    def want(self, *rows: DesiredState) -> None:
        desired_versions.replace_all(self._written, self.data.dynakubes, rows)

    def install(self, version: Version) -> None:
        Path(self.data.agent(version)).mkdir()

    def close(self) -> None:
        self._written.close()
        self.read.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.want(DesiredState(DEMO, version=VERSIONS[0]), DesiredState(OTHER, version=VERSIONS[1]))
    node.desired.refresh()
    yield node
    node.close()


class WaitingCall:
    """One wait of a call; `woken` is how often it has returned."""

    def __init__(
        self,
        node: Node,
        dynakube: DynaKubeName = DEMO,
        *,
        awaits_lease: bool = False,
        until: Callable[[], bool] = lambda: True,
    ) -> None:
        self.woken = 0
        self.call = node.calls.hold(f"volume {id(self)}", "a publish")
        self._node, self._dynakube, self._awaits_lease, self._until = node, dynakube, awaits_lease, until
        waiting = node.waiter.waiting
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        wait_for(lambda: node.waiter.waiting > waiting)

    def _wait(self) -> None:
        while not self.woken or not self._until():
            seen = self._node.waiter.look(self._dynakube)
            self._node.waiter.wait_for_change(seen, LONG_SECONDS, self.call, awaits_lease=self._awaits_lease)
            self.woken += 1

    def ends(self, seconds: float = 20.0) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_version_wakes_the_calls_that_wait_for_it_and_no_others(node: Node) -> None:
    calls, others = [WaitingCall(node) for _ in range(3)], [WaitingCall(node, OTHER) for _ in range(3)]
    node.install(VERSIONS[2])  # nobody's
    node.install(VERSIONS[0])
    assert all(call.ends() for call in calls)
    assert [call.woken for call in (*calls, *others)] == [1, 1, 1, 0, 0, 0]
    node.install(VERSIONS[1])
    assert all(call.ends() for call in others)


def test_a_change_of_its_dynakube_wakes_a_call_and_that_of_another_does_not(node: Node) -> None:
    call, other = WaitingCall(node), WaitingCall(node, OTHER)
    node.want(DesiredState(DEMO, version=VERSIONS[0]), DesiredState(OTHER, version=VERSIONS[1], condition="no tenant"))
    assert other.ends()
    assert (call.woken, other.woken) == (0, 1)
    node.want(DesiredState(DEMO, version=VERSIONS[2]))
    assert call.ends()


def test_a_call_whose_dynakube_turns_out_not_to_exist_wakes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    call = WaitingCall(node, DynaKubeName("unheard-of"))
    node.want(DesiredState(DEMO, version=VERSIONS[0]))
    assert call.ends()
    node.close()


def test_a_last_good_version_that_comes_and_a_config_layer_wake_their_calls(node: Node) -> None:
    tenant, layer = TenantId("abc12345"), LayerId("0123456789abcdef")
    node.want(DesiredState(DEMO, tenant, VERSIONS[0], layer, good_version=VERSIONS[1]))
    node.desired.refresh()
    call = WaitingCall(node)
    node.install(VERSIONS[1])
    assert call.ends()
    call = WaitingCall(node)
    node.data.config_layer(tenant, layer).mkdir(parents=True)
    assert call.ends()


def test_a_change_between_looking_and_waiting_is_not_missed(node: Node) -> None:
    seen = node.waiter.look(DEMO)
    node.install(VERSIONS[0])
    with node.calls.hold("volume", "a publish") as call:
        started = time.monotonic()
        node.waiter.wait_for_change(seen, LONG_SECONDS, call)
    assert time.monotonic() - started < LONG_SECONDS / 2


def test_a_cancelled_call_wakes_alone_and_waits_no_more(node: Node) -> None:
    calls = [WaitingCall(node) for _ in range(3)]
    node.calls.cancel(f"volume {id(calls[0])}", calls[0].call)
    assert calls[0].ends()
    assert [call.woken for call in calls] == [1, 0, 0]
    node.waiter.wait_for_change(node.waiter.look(DEMO), LONG_SECONDS, calls[0].call)
    node.calls.cancel_all()
    assert all(call.ends() for call in calls)


def test_the_end_of_a_removal_wakes_the_calls_that_await_it(node: Node) -> None:
    with node.store.removal():
        call, other = WaitingCall(node, awaits_lease=True), WaitingCall(node)
        assert not call.ends(0.2)
    assert call.ends()
    assert other.woken == 0
    node.calls.cancel_all()


def test_the_lease_is_looked_at_for_the_calls_that_await_it_only(tmp_path: Path) -> None:
    class CountingStore(AgentStore):
        looks = 0

        def is_removing(self) -> bool:
            CountingStore.looks += 1
            return super().is_removing()

    node = Node(tmp_path, CountingStore)
    node.want(DesiredState(DEMO, version=VERSIONS[0]))
    node.desired.refresh()
    call = WaitingCall(node)
    assert not call.ends(0.1)
    assert CountingStore.looks == 0
    node.install(VERSIONS[0])
    assert call.ends()
    with node.store.removal():
        call = WaitingCall(node, awaits_lease=True)
        wait_for(lambda: CountingStore.looks > 0)
    assert call.ends()
    node.close()


def test_a_poll_that_fails_begins_again_and_still_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(version_waiter, "RESTART_SECONDS", 0.05)
    failures = iter([True])

    class FailingReader(DesiredStateReader):
        def refresh(self) -> bool:
            if next(failures, False):
                raise ValueError("unexpected")
            return super().refresh()

    node = Node(tmp_path, desired=FailingReader)
    node.want(DesiredState(DEMO, version=VERSIONS[0]))
    call = WaitingCall(node, until=lambda: node.store.has(VERSIONS[0]))
    wait_for(lambda: "poll for versions failed" in caplog.text)
    node.install(VERSIONS[0])
    assert call.ends()
    node.close()


def test_a_store_that_is_gone_wakes_no_call_again_and_again(node: Node) -> None:
    node.data.agents.rmdir()
    call = WaitingCall(node, until=lambda: node.store.has(VERSIONS[0]))
    assert not call.ends(0.3)
    assert call.woken == 0
    node.data.agents.mkdir()
    node.install(VERSIONS[0])
    assert call.ends()


def test_a_poll_that_cannot_be_started_is_started_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_waiter, "RESTART_SECONDS", 0.05)
    refusals = iter([True])

    class LimitedThread(threading.Thread):
        def start(self) -> None:
            if self.name == "version-waiter" and next(refusals, False):
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", LimitedThread)
    call = WaitingCall(node, until=lambda: node.store.has(VERSIONS[0]))
    node.install(VERSIONS[0])
    assert call.ends()
    assert next(refusals, None) is None
