"""The sandbox that clusters run in: however it ends, nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import cgroups, sandbox

pytestmark = pytest.mark.skipif(bool(sandbox.why_not()), reason=sandbox.why_not() or "-")

_OUTER = """
import pathlib, sys
from tests.cluster import sandbox
sys.exit(sandbox.run(sys.argv[2:], pathlib.Path(sys.argv[1])))
"""
# Something that has lost its parent, a mount, a network device, and a process in a control group.
_INNER = """
setsid sleep 1000 & mount -t tmpfs tmpfs /mnt && ip link add left type veth peer name behind
for group in /sys/fs/cgroup/*/oneagent-$(basename $CLUSTER_FOLDER); do
    mkdir $group/child; echo $! >$group/child/cgroup.procs
done
touch $CLUSTER_FOLDER/ready; exec sleep 1000
"""


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "in vain for 20 s"
        time.sleep(0.05)


class Run:
    """The only one of its folder of runs when it begins."""

    def __init__(self, runs: Path, *command: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", _OUTER, runs, *command], start_new_session=True)
        _wait_for(lambda: list(runs.glob("*/")))
        (self.folder,) = runs.glob("*/")

    def groups(self) -> list[Path]:
        return [path for root in cgroups.hierarchies() if (path := root / sandbox.group(self.folder)).exists()]

    def inside(self) -> set[int]:
        """The processes in its network namespace."""
        own = Path(f"/proc/{(self.folder / 'pid').read_text()}/ns/net").readlink()
        return {int(path.parts[2]) for path in Path("/proc").glob("[0-9]*/ns/net") if _same(path, own)}


def _same(path: Path, namespace: Path) -> bool:
    try:
        return path.readlink() == namespace
    except OSError:
        return False


def _gone(processes: set[int]) -> bool:
    return not any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_it(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path, "sh", "-c", _INNER)
    _wait_for((run.folder / "ready").exists)
    inside = run.inside()
    assert len(inside) >= 3
    run.process.send_signal(number)
    run.process.wait(20)
    _wait_for(lambda: _gone(inside))
    assert not run.folder.exists()
    assert not run.groups()


def test_ctrl_c_is_the_commands_to_answer_and_ends_it_by_default(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        sys.executable,
        "-c",
        "import os, time; open(os.environ['CLUSTER_FOLDER'] + '/ready', 'w'); time.sleep(99)",
    )
    _wait_for((run.folder / "ready").exists)
    inside = run.inside()
    for process in inside | {run.process.pid}:
        # One that was ended by another's end is asked no more.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)
    assert run.process.wait(20) != 0
    assert _gone(inside)
    assert not run.folder.exists()


def test_what_sigkill_leaves_behind_goes_with_the_next_run(tmp_path: Path) -> None:
    run = Run(tmp_path, "sh", "-c", _INNER)
    _wait_for((run.folder / "ready").exists)
    inside = run.inside()
    run.process.kill()
    run.process.wait()
    _wait_for(lambda: _gone(inside))
    assert run.folder.exists()
    assert sandbox.run(["true"], tmp_path) == 0
    assert not run.folder.exists()
    assert not run.groups()


def test_two_run_beside_each_other_and_the_commands_exit_code_is_the_answer(tmp_path: Path) -> None:
    other = Run(tmp_path, "sh", "-c", _INNER)
    _wait_for((other.folder / "ready").exists)
    assert sandbox.run(["sh", "-c", "ip link show left; test $? = 1 && exit 7"], tmp_path) == 7
    assert other.process.poll() is None
    assert other.folder.exists()
    other.process.terminate()
    other.process.wait(20)
