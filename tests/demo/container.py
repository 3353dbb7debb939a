"""A container, as far as the demonstration needs one: a process with a root of its own and the pod's volume in it.

    unshare --mount --propagation private python -m tests.demo.container --root DIR --volume DIR -- COMMAND…

The root is a tmpfs with the machine's programs and libraries, read-only, and the volume where the agent is expected.
The command runs as an unprivileged user, unless this is a user namespace that knows no other user.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Final

from oneagent.common.injection.contract import PRELOAD_LIBRARY
from oneagent.csi_driver.linux import syscalls

AGENT: Final = "/opt/dynatrace/oneagent-paas"
"""Where pods have the agent's volume."""
USER: Final = 1000

_MS_REC: Final = 16384
_MNT_DETACH: Final = 2
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1
# mount_setattr has no wrapper in glibc before 2.36; its number is the same on every architecture (Linux 5.12).
_SYS_MOUNT_SETATTR: Final = 442

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def build_root(root: Path, volume: Path) -> None:
    """Mount everything that the command shall see below `root`."""
    syscalls.mount("tmpfs", str(root), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64"):
        machines, ours = Path("/", name), root / name
        if machines.is_symlink():
            ours.symlink_to(machines.readlink())
        elif machines.is_dir():
            ours.mkdir()
            _bind(machines, ours, read_only=True)
    for name in ("etc/ld.so.cache", "dev/null"):
        ours = root / name
        ours.parent.mkdir(exist_ok=True)
        ours.touch()
        with contextlib.suppress(FileNotFoundError):  # There are systems without a cache.
            _bind(Path("/", name), ours)
    for name in ("dev/shm", "tmp"):
        (root / name).mkdir()
        (root / name).chmod(0o1777)
    (root / "proc").mkdir()
    _bind(Path("/proc"), root / "proc")
    agent = root / AGENT.lstrip("/")
    agent.mkdir(parents=True)
    _bind(volume, agent)


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    # Recursive: in a user namespace the kernel shows nothing that a mount of the machine hides.
    syscalls.mount(str(source), str(target), "", syscalls.MS_BIND | _MS_REC)
    if read_only:
        wanted = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
        size = ctypes.c_size_t(ctypes.sizeof(wanted))
        path = os.fsencode(target)
        number = ctypes.c_long(_SYS_MOUNT_SETATTR)
        if _libc.syscall(number, ctypes.c_int(_AT_FDCWD), path, _AT_RECURSIVE, ctypes.byref(wanted), size) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def enter_root(root: Path) -> None:
    """Make `root` this process's root, and let go of the machine's."""
    os.chdir(root)
    if _libc.pivot_root(b".", b".") != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(root))
    syscalls.umount2(".", _MNT_DETACH)
    os.chdir("/")


def has_other_users() -> bool:
    """Whether there is another user than root: a user namespace may know only this one."""
    return any(int(line.split()[2]) > USER for line in Path("/proc/self/uid_map").read_text().splitlines())


def drop_privileges() -> None:
    """Become an ordinary user, as applications are."""
    if has_other_users():
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo.container")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    build_root(given.root, given.volume)
    enter_root(given.root)
    drop_privileges()
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LD_PRELOAD": f"{AGENT}/{PRELOAD_LIBRARY}"}
    os.execvpe(given.command[0], given.command, environment)


if __name__ == "__main__":
    sys.exit(main())
