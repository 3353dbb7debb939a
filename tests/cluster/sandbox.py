"""Runs a command in namespaces of its own, so that whatever it starts, mounts or configures is gone when it ends.

The command becomes a child of process 1 of a new PID namespace (`inside`), with mounts, network, host name and
IPC of its own. The kernel does the cleaning: when that process 1 ends, or this process is killed, every process
in the namespace is killed, and with the last of them go mounts and network devices. What the kernel does not
take away is the run's folder and its control groups; this process removes them at the end, and those of runs
that were killed before they could at the next start (a run holds a lock on its folder as long as it lives).

    python -m tests.cluster.sandbox COMMAND…
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.cluster import cgroups

RUNS: Final = Path("build/cluster/runs")
FOLDER_VARIABLE: Final = "CLUSTER_FOLDER"
DOOR_VARIABLE: Final = "CLUSTER_DOOR"

_PR_SET_PDEATHSIG: Final = 1
_NAMESPACES: Final = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")


def why_not() -> str:
    """Why no cluster can run on this machine; '' if it can."""
    if os.geteuid() != 0:
        return "a cluster needs root: kubelet makes control groups and mounts"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare and ip are missing: install util-linux and iproute2"
    if not cgroups.ROOT.is_dir() or not os.access(cgroups.ROOT, os.W_OK):
        return f"{cgroups.ROOT} is not there or not writable"
    return ""


def run(command: list[str]) -> int:
    """The exit code of a command that ran in namespaces of its own; everything of it is gone."""
    # A listening socket belongs to the network namespace that it was made in: through this one, somebody outside
    # reaches the cluster's API server.
    with _folder() as folder, socket.create_server(("127.0.0.1", 0)) as door:
        door.set_inheritable(True)
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(folder),
            DOOR_VARIABLE: str(door.fileno()),
            "TMPDIR": str(folder / "tmp"),
        }
        process = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--propagation", "private", sys.executable, "-m", "tests.cluster.inside", *command],
            env=environment,
            pass_fds=[door.fileno()],
            preexec_fn=_die_with_parent,
        )
        with _signals(process):
            return process.wait()


def _sweep() -> None:
    """Remove what runs left behind that were killed."""
    for folder in RUNS.glob("*/"):
        with (folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(folder)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new run's folder with its control groups. Its name is short: there are sockets in it."""
    folder = RUNS.resolve() / secrets.token_hex(3)
    RUNS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        with (RUNS / "lock").open("w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            _sweep()
            (folder / "tmp").mkdir(parents=True)
            fcntl.flock(files.enter_context((folder / "lock").open("w")), fcntl.LOCK_EX)
        try:
            cgroups.create(group(folder))
            yield folder
        finally:
            _remove(folder)


def group(folder: Path) -> str:
    """The name of a run's control groups."""
    return f"oneagent-{folder.name}"


def _remove(folder: Path) -> None:
    cgroups.remove(group(folder))
    shutil.rmtree(folder)


@contextlib.contextmanager
def _signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches the command by itself, and is its to answer. SIGTERM and SIGHUP end everything at once."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.kill()),
        signal.SIGHUP: signal.signal(signal.SIGHUP, lambda *_: process.kill()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.sandbox", description="Runs a command in a sandbox")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if reason := why_not():
        parser.error(reason)
    sys.exit(run(given.command))


if __name__ == "__main__":
    main()
