"""Waiting calls are woken, also by a thread that had to be started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.csi_driver.server import version_waiter
from oneagent.csi_driver.server.version_waiter import VersionWaiter

LONG_SECONDS = 60.0
"""A call that nothing wakes waits longer than its test."""


class WaitingCall:
    """A call that waits for a condition, as publishes do; a wake without reason is allowed."""

    def __init__(self, waiter: VersionWaiter, condition: Callable[[], bool], *, awaits_lease: bool = False) -> None:
        self._waiter = waiter
        self._condition = condition
        self._awaits_lease = awaits_lease
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 5
        while not waiter.waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def _wait(self) -> None:
        while True:
            generation = self._waiter.generation
            if self._condition():
                return
            self._waiter.wait_for_change(generation, LONG_SECONDS, awaits_lease=self._awaits_lease)

    def ends(self, seconds: float = 5.0) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def test_the_end_of_a_removal_wakes_the_calls_that_await_it(tmp_path: Path) -> None:
    removing = threading.Event()
    removing.set()
    waiter = VersionWaiter(str(tmp_path), lambda: False, removing.is_set)
    call = WaitingCall(waiter, lambda: not removing.is_set(), awaits_lease=True)
    assert not call.ends(0.2)
    removing.clear()
    assert call.ends()


def test_the_lease_is_looked_at_for_the_calls_that_await_it_only(tmp_path: Path) -> None:
    polls: list[bool] = []

    def is_removing() -> bool:
        polls.append(True)
        return False

    waiter = VersionWaiter(str(tmp_path), lambda: False, is_removing)
    ended = threading.Event()
    call = WaitingCall(waiter, ended.is_set)
    assert not call.ends(0.1)
    assert polls == []
    ended.set()
    waiter.wake()
    assert call.ends()


def test_a_poll_that_fails_begins_again_and_still_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(version_waiter, "RESTART_SECONDS", 0.05)
    changed = threading.Event()
    failures = iter([True])

    def refresh() -> bool:
        if next(failures, False):
            raise ValueError("unexpected")
        return changed.is_set()

    call = WaitingCall(VersionWaiter(str(tmp_path), refresh), changed.is_set)
    assert not call.ends(0.3)
    assert "poll for versions failed" in caplog.text
    changed.set()
    assert call.ends()


def test_a_store_that_is_gone_wakes_no_call_again_and_again(tmp_path: Path) -> None:
    store = tmp_path / "agents"
    waiter = VersionWaiter(str(store), lambda: False)
    call = WaitingCall(waiter, store.exists)
    assert not call.ends(0.3)
    assert waiter.generation <= 2
    store.mkdir()
    assert call.ends()


def test_a_poll_that_cannot_be_started_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_waiter, "RESTART_SECONDS", 0.05)
    refusals = iter([True])

    class LimitedThread(threading.Thread):
        def start(self) -> None:
            if self.name == "version-waiter" and next(refusals, False):
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", LimitedThread)
    changed = threading.Event()
    call = WaitingCall(VersionWaiter(str(tmp_path), changed.is_set), changed.is_set)
    changed.set()
    assert call.ends()
    assert next(refusals, None) is None
