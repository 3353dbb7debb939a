"""A process in the sandbox reads and writes what it was given, and can do nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from oneagent.csi_driver.linux import landlock, seccomp

pytestmark = pytest.mark.skipif(
    not landlock.version() or not seccomp.is_supported(os.uname().machine), reason="needs Landlock and a known machine"
)

ENTER: Final = """
import ctypes, fcntl, json, os, resource, signal, socket, sys, threading, time
from oneagent.csi_driver.linux import sandbox

shared, own, outside = sys.argv[1:4]
parent = int(sys.argv[4]) or os.getppid()
limits = sandbox.Limits(512 << 20, 128 << 20, 1 << 20, 64, int(sys.argv[5]))
libc = ctypes.CDLL(None, use_errno=True)
opened = os.open(f"{shared}/file", os.O_RDONLY)
status_file = open("/proc/self/status")

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

sandbox.enter(limits, parent, [*sys.path, "/lib", "/usr/lib", shared], [own])
"""

TRY_ALL: Final = """
status = dict(line.split(":\\t", 1) for line in status_file.read().splitlines() if ":\\t" in line)
found = {}
for name, attempt in json.load(sys.stdin).items():
    try:
        found[name] = "" if eval(attempt) is not False else "False"
    except OSError as error:
        found[name] = os.strerror(error.errno)
json.dump(found, sys.stderr)
"""

FORBIDDEN: Final = {
    "socket": "socket.socket()",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "socket pair": "socket.socketpair()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "new process by clone3": "call('syscall', 435, None, 0)",
    "signal to its parent": "os.kill(parent, 0)",
    "trace its parent": "call('ptrace', 16, parent, 0, 0)",
    "memory of its parent": "open(f'/proc/{parent}/mem', 'rb')",
    "environment of its parent": "open(f'/proc/{parent}/environ', 'rb')",
    "limits of its parent": "resource.prlimit(parent, resource.RLIMIT_NOFILE, (1, 1))",
    "own limits": "resource.prlimit(0, resource.RLIMIT_CPU, (10, 10))",
    "affinity of its parent": "os.sched_setaffinity(parent, {0})",
    "priority of its parent": "os.setpriority(os.PRIO_PROCESS, parent, 19)",
    "read a token": "open(f'{outside}/token')",
    "list another directory": "os.listdir(outside)",
    "write elsewhere": "write(f'{outside}/new')",
    "write to a file it may read": "os.open(f'{shared}/file', os.O_WRONLY)",
    "new file beside it": "write(f'{shared}/new')",
    "remove a file it may read": "os.unlink(f'{shared}/file')",
    "rename out of its directory": "os.rename(f'{own}/mine', f'{shared}/mine')",
    "name for a shared file": "os.link(f'{shared}/file', f'{own}/file')",
    "name by descriptor": "os.link(f'/proc/self/fd/{opened}', f'{own}/file', follow_symlinks=True)",
    "follow its own link": "os.symlink(f'{outside}/token', f'{own}/link') or open(f'{own}/link')",
    "mode of a shared file": "os.chmod(f'{shared}/file', 0o4755)",
    "mode by descriptor": "os.fchmod(opened, 0)",
    "owner": "os.chown(f'{shared}/file', 1, 1)",
    "times": "os.utime(f'{shared}/file', (0, 0))",
    "attribute": "os.setxattr(f'{shared}/file', 'user.x', b'x')",
    "lock": "fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "truncate": "os.truncate(f'{shared}/file', 0)",
    "truncate as it opens": "os.open(f'{shared}/file', os.O_RDONLY | os.O_TRUNC)",
    "openat2": "call('syscall', 437, -100, b'/', None, 0)",
    "pipe": "os.mkfifo(f'{own}/pipe')",
    "device": "os.mknod(f'{own}/device', 0o020600, os.makedev(1, 3))",
    "mount": "call('mount', b'none', own.encode(), b'tmpfs', 0, None)",
    "namespace": "call('unshare', 0x10000000)",
    "another root": "os.chroot(own)",
    "io_uring": "call('syscall', 425, 1, None)",
    "keys": "call('syscall', 250 if os.uname().machine == 'x86_64' else 219, 0, 0, 0, 0, 0)",
    "bpf": "call('syscall', 321 if os.uname().machine == 'x86_64' else 280, 0, None, 0)",
    "newer call": "call('syscall', 470, 0)",
    "other rights": "os.setuid(1)",
    "longer than its parent": "call('prctl', 1, 0, 0, 0, 0)",
    "more than a file may have": "os.pwrite(os.open(f'{own}/large', os.O_WRONLY | os.O_CREAT, 0o600), b'x', 1 << 20)",
}

ALLOWED: Final = {
    "read": "open(f'{shared}/file').read() == 'shared'",
    "write": "open(os.open(f'{own}/new', os.O_WRONLY | os.O_CREAT, 0o444), 'w').write('x') == 1",
    "exact mode": "os.stat(f'{own}/new').st_mode & 0o7777 == 0o444",
    "directory": "os.mkdir(f'{own}/new.d', 0o1777) is None and os.stat(f'{own}/new.d').st_mode & 0o1777 == 0o1777",
    "symlink": "os.symlink('new', f'{own}/symlink') is None",
    "remove": "os.unlink(f'{own}/new') is None",
    "thread": "(t := threading.Thread(target=print)).start() or t.join() is None",
    "no capability": "int(status['CapEff'], 16) == int(status['CapPrm'], 16) == 0",
    "no new rights": "status['NoNewPrivs'] == '1'",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each attempt the error, or "" for none."""
    place = tmp_path_factory.mktemp("sandbox")
    for name in ("shared", "own", "outside"):
        (place / name).mkdir()
    (place / "shared/file").write_text("shared")
    (place / "outside/token").write_text("secret")
    (place / "own/mine").write_text("mine")
    done = _run(place, ENTER + TRY_ALL, json.dumps(FORBIDDEN | ALLOWED))
    assert done.returncode == 0, done.stderr
    assert (place / "shared/file").read_text() == "shared"
    assert sorted(path.name for path in (place / "outside").iterdir()) == ["token"]
    found: dict[str, str] = json.loads(done.stderr)
    return found


def _run(
    place: Path, code: str, given: str = "", *, parent: int = 0, cpu: int = 60
) -> subprocess.CompletedProcess[str]:
    arguments = [str(place / name) for name in ("shared", "own", "outside")] + [str(parent), str(cpu)]
    command = [sys.executable, "-I", "-c", code, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_what_nobody_gave_it_is_refused(results: dict[str, str], attempt: str) -> None:
    refusals = ["Operation not permitted", "Permission denied", "Invalid cross-device link", "Function not implemented"]
    assert results[attempt] in [*refusals, "File too large"]


@pytest.mark.parametrize("attempt", ALLOWED)
def test_its_own_work_succeeds(results: dict[str, str], attempt: str) -> None:
    assert results[attempt] == ""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("shared", "own", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared/file").write_text("shared")
    return tmp_path


def test_memory_ends_at_the_limit(place: Path) -> None:
    done = _run(place, f"{ENTER}\nbytearray(200 << 20)")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "MemoryError")


def test_cpu_time_ends_at_the_limit(place: Path) -> None:
    assert _run(place, f"{ENTER}\nwhile True: pass", cpu=1).returncode == -signal.SIGXCPU


def test_it_does_not_begin_without_its_parent(place: Path) -> None:
    assert "the parent has ended" in _run(place, ENTER, parent=1).stderr


def test_it_ends_with_its_parent(place: Path) -> None:
    child = f"{ENTER}\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    arguments = [str(place / name) for name in ("shared", "own", "outside")] + ["0", "60"]
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {child!r}, *{arguments!r}])"
    with subprocess.Popen([sys.executable, "-I", "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child_id = int(process.stdout.readline())
        process.kill()
        deadline = time.monotonic() + 20
        while _is_running(child_id):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _is_running(process_id: int) -> bool:
    """Return False for a process that has ended, though nobody may have asked for its exit code."""
    try:
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
