"""A terminal shows how far the environment is; a log has nothing but the output of a command that fails."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.tools import set_up

_ROOT = Path(__file__).parents[3]
_PIP = """
import sys, time
for line in ("Collecting a==1", "  Downloading a.whl", "Requirement already satisfied: b==2 in /x"):
    print(line, flush=True)
    time.sleep(0.3)
print("Installing collected packages: a", flush=True)
time.sleep(0.3)
print("it is over")
sys.exit(int(sys.argv[1]))
"""
_RUN = f"""
import sys
from tests.tools import set_up
pip = set_up.PipOutput(2)
set_up.run([sys.executable, "-c", {_PIP!r}, sys.argv[1]], set_up.Progress(), lambda: pip.state, pip.read)
"""


def run(exit_code: int, *, terminal: bool) -> tuple[int, str]:
    """Run the pretended pip; return the exit code, and what was seen on stderr."""
    command = [sys.executable, "-c", _RUN, str(exit_code)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    if not terminal:
        done = subprocess.run(
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == ""
        return done.returncode, done.stderr
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as seen:
        done_there = subprocess.run(command, cwd=_ROOT, env=environment, stderr=theirs, timeout=60, check=False)
        os.close(theirs)
        return done_there.returncode, seen.read(1 << 16).decode()


def test_a_terminal_shows_the_packages_that_came_and_is_clean_at_the_end() -> None:
    code, seen = run(0, terminal=True)
    assert code == 0
    assert "collecting packages: 1 of 2" in seen
    assert "collecting packages: 2 of 2" in seen
    assert "installing 2 packages" in seen
    assert seen.endswith("\r\x1b[K")
    assert "\n" not in seen


def test_a_log_stays_empty() -> None:
    assert run(0, terminal=False) == (0, "")


def test_a_failure_is_shown_with_all_that_was_said() -> None:
    code, seen = run(3, terminal=False)
    assert code == 1
    assert "Collecting a==1\n" in seen
    assert "it is over\n" in seen
    assert "exit code 3" in seen


def test_the_packages_of_the_lock_file_are_counted() -> None:
    assert set_up.count_packages(_ROOT / "requirements.lock") > 50
