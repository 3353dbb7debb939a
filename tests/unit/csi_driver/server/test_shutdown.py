"""The server stays as long as an uninstalled driver has volumes, and no longer."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneagent.csi_driver.server import shutdown

SIGNALS = (signal.SIGUSR1,)


@pytest.fixture(autouse=True)
def blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    yield
    while signal.sigtimedwait(SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def counting(*counts: int) -> Callable[[], int]:
    """Each count once, and the last one from then on."""
    left = list(counts)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def seconds(count_volumes: Callable[[], int], marker: Path, verdict_seconds: float = 30.0) -> float:
    began = time.monotonic()
    shutdown.wait_until_drained(count_volumes, marker, verdict_seconds, SIGNALS)
    return time.monotonic() - began


def send() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)


def test_without_volumes_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "marker").touch()
    calls: list[int] = []

    def count() -> int:
        calls.append(0)
        return 0

    assert seconds(count, tmp_path / "marker") < 5
    assert len(calls) == 1


def test_without_an_uninstall_the_verdict_ends_the_wait(tmp_path: Path) -> None:
    assert 0.05 <= seconds(counting(3), tmp_path / "marker", 0.05) < 5


def test_the_end_of_the_last_volume_ends_the_wait_for_the_verdict(tmp_path: Path) -> None:
    assert seconds(counting(1, 0), tmp_path / "marker") < 5


def test_after_an_uninstall_the_last_volume_is_waited_for_beyond_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "marker").touch()
    counts: list[int] = []

    def count() -> int:
        counts.append(len(counts))
        if len(counts) == 4:
            return 0
        send()  # Ends the pause, and is taken for a signal to leave only in the loop.
        return 1

    # The first count decides to wait, the second is logged; then a signal ends the wait.
    seconds(count, tmp_path / "marker", 0.01)
    assert len(counts) == 3


def test_a_marker_that_is_taken_back_ends_the_wait_for_the_last_volume(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    left = [1, 1, 1]

    def count() -> int:
        if not left:
            marker.unlink(missing_ok=True)
            return 1
        return left.pop()

    assert seconds(count, marker) < 10
    assert not marker.exists()


@pytest.mark.parametrize("uninstalled", [True, False])
def test_a_signal_ends_each_wait_at_once(tmp_path: Path, uninstalled: bool) -> None:
    marker = tmp_path / "marker"
    if uninstalled:
        marker.touch()
    send()
    assert seconds(counting(1), marker) < 5
