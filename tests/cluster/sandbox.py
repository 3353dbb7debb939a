"""Runs a command in namespaces of its own, so that whatever it starts, mounts or configures is gone when it ends.

    python -m tests.cluster.sandbox COMMAND…

The command becomes a child of process 1 of a new PID namespace (`inside`), with mounts, network, host name and
IPC of its own. The kernel does the cleaning: when that process 1 ends, or this process is killed, every process
in the namespace is killed, and with the last of them go mounts and network devices. What the kernel does not
take away is the run's folder and its control groups; this process removes them at the end, and those of runs
that were killed before they could at the next start (a run holds a lock on its folder as long as it lives).
"""

from __future__ import annotations

import contextlib
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
PROGRAMS: Final = {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
DOOR_VARIABLE: Final = "CLUSTER_DOOR"

# Each of them is killed when the one before it is, so the sandbox ends however this process does.
_UNSHARE: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--propagation", "private"),
    *("--fork", "--kill-child", "--mount-proc"),
)


def why_not() -> str:
    """Why no cluster can run on this machine; '' if it can."""
    if os.geteuid() != 0:
        return "a cluster needs root: kubelet makes control groups and mounts"
    if not cgroups.ROOT.is_dir() or not os.access(cgroups.ROOT, os.W_OK):
        return f"{cgroups.ROOT} is not there or not writable"
    return ""


def run(command: list[str], runs: Path = RUNS) -> int:
    """The exit code of a command that ran in namespaces of its own; everything of it is gone."""
    # A listening socket belongs to the network namespace that it was made in: through this one, somebody outside
    # reaches the cluster's API server.
    with _folder(runs) as folder, socket.create_server(("127.0.0.1", 0)) as door:
        door.set_inheritable(True)
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(folder),
            DOOR_VARIABLE: str(door.fileno()),
            "TMPDIR": str(folder / "tmp"),
        }
        inside = (sys.executable, "-m", "tests.cluster.sandbox_init", *command)
        process = subprocess.Popen([*_UNSHARE, *inside], env=environment, pass_fds=[door.fileno()])
        (folder / "pid").write_text(str(process.pid))
        with _signals(process):
            return process.wait()


def _sweep(runs: Path) -> None:
    """Remove what runs left behind that were killed."""
    for folder in runs.glob("*/"):
        try:
            lock = (folder / "lock").open("r")
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # Of one that removes it just now, or was ended when only this was left to do.
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(folder)


@contextlib.contextmanager
def _folder(runs: Path) -> Iterator[Path]:
    """A new run's folder with its control groups. Its name is short: there are sockets in it."""
    folder = runs.resolve() / secrets.token_hex(3)
    runs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        with (runs / "lock").open("w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            _sweep(runs)
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
    """For who holds the lock, which goes last: whoever sees the folder without it leaves it alone."""
    cgroups.remove(group(folder))
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    (folder / "lock").unlink()
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


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


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
