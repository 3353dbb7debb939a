"""Processes of the driver: their locks, and their end when a thread dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oneagent.csi_driver.linux import process

THREADS = """
import threading, time
from oneagent.csi_driver.linux import process

def work():
    {work}

with process.ending_on_thread_errors():
    threading.Thread(target=work, name="unlucky", daemon=True).start()
    time.sleep({seconds})
print("went on")
"""


def run(work: str, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", THREADS.format(work=work, seconds=seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_thread_that_dies_ends_its_process_with_an_error() -> None:
    result = run("raise ValueError('nobody expected this')", 50)
    assert result.returncode == 1
    assert "thread died, process ends" in result.stderr
    assert "nobody expected this" in result.stderr
    assert "went on" not in result.stdout


@pytest.mark.parametrize("work", ["return", "raise SystemExit(3)"])
def test_a_thread_that_ends_by_itself_ends_nothing_else(work: str) -> None:
    assert run(work, 0.1).stdout == "went on\n"


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    lock = tmp_path / "data/server.lock"
    with process.exclusive_lock(lock):
        assert process.is_locked(lock)
        with pytest.raises(SystemExit, match="only one may use"), process.exclusive_lock(lock, 0.0):
            pass
    with process.exclusive_lock(lock, 0.0):
        assert process.is_locked(lock)


def test_a_lock_that_can_not_be_opened_ends_the_process_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="can't be opened"), process.exclusive_lock(tmp_path / "file/server.lock"):
        pass
