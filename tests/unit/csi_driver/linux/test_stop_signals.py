"""Stop signals do their work whatever the main thread is doing, and end the children of a process that awaits them."""

from __future__ import annotations

import subprocess
import sys

_PREAMBLE = """
import os, signal, subprocess, sys, threading, time
from oneagent.csi_driver.linux import stop_signals
"""
_MAIN_THREAD_HOLDS_THE_LOCK = """
event, arrivals = threading.Event(), threading.Semaphore(0)
def on_stop():
    arrivals.release()
    event.set()
stop_signals.call_on_stop(on_stop)
with event._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    assert arrivals.acquire(timeout=10)
assert event.wait(10)
os.kill(os.getpid(), signal.SIGINT)
assert arrivals.acquire(timeout=10)
"""
_CHILD = """
stop_signals.block()
child = "from oneagent.csi_driver.linux import stop_signals; stop_signals.unblock(); print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PREAMBLE + script], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_signal_that_comes_while_the_main_thread_holds_the_lock_does_its_work() -> None:
    done = run(_MAIN_THREAD_HOLDS_THE_LOCK)
    assert done.returncode == 0, done.stderr


def test_a_child_that_unblocks_them_is_ended_by_them() -> None:
    done = run(_CHILD)
    assert done.returncode == 0, done.stderr
