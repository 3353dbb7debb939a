"""A container, as far as the demonstration needs one: a process with a root of its own and the pod's volume in it.

    unshare --mount --propagation private python -m tests.demo.container --root DIR --volume DIR --name NAME \\
        [--agent KIND] [--bind SOURCE:TARGET…] [--env NAME=VALUE…] -- COMMAND…

The root is a tmpfs with the machine's programs and libraries, read-only, and the volume where the agent is expected.
The container's own files in the volume are mounted where the webhook has kubelet mount them, by `subPath`. What an
image would have besides comes by `--bind` and `--env`.
The command runs as an unprivileged user, unless this is a user namespace that knows no other user.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from oneagent.common import agents
from oneagent.common.agents import oneagent
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.injection import contract
from oneagent.csi_driver.linux import syscalls

AGENT: Final = oneagent.INSTALL_PATH
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


def build_root(root: Path, binds: Sequence[str]) -> None:
    """Mount the machine's programs and libraries below `root`, and what an image would have besides."""
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
    for source, _, target in (bind.partition(":") for bind in binds):
        inside = root / (target or source).lstrip("/")
        if Path(source).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        _bind(Path(source), inside, read_only=True)


def mount_agent(root: Path, volume: Path, container: str, agent: AgentProfile) -> None:
    """Mount the volume, and over it the files of the container of this name."""
    path = root / agent.install_path.lstrip("/")
    path.mkdir(parents=True)
    _bind(volume, path)
    if agent.kind == oneagent.PROFILE.kind:
        _mount_oneagent_files(root, volume / contract.VIEW_FILES_DIRECTORY, container)
    else:
        # Below the view itself, which has a mount point for it.
        own = volume / Path(agent.container_path).with_name(agent.container_file.format(container=container))
        _bind(own, path / agent.container_path, read_only=True)


def _mount_oneagent_files(root: Path, files: Path, container: str) -> None:
    conf, enrichment = (root / path.lstrip("/") for path in (oneagent.CONTAINER_CONF_PATH, oneagent.ENRICHMENT_PATH))
    conf.parent.mkdir(parents=True)
    conf.touch()
    _bind(files / oneagent.CONTAINER_CONF.format(container=container), conf, read_only=True)
    enrichment.mkdir(parents=True)
    _bind(files / oneagent.ENRICHMENT_DIRECTORY, enrichment, read_only=True)


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
    parser.add_argument("--name", required=True)
    parser.add_argument("--agent", default=agents.DEFAULT.kind)
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    agent = agents.get(given.agent)
    build_root(given.root, given.bind)
    mount_agent(given.root, given.volume, given.name, agent)
    enter_root(given.root)
    drop_privileges()
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    environment["LD_PRELOAD"] = f"{agent.install_path}/{agent.preload_library}"
    environment |= dict(variable.split("=", 1) for variable in given.env)
    os.execvpe(given.command[0], given.command, environment)


if __name__ == "__main__":
    sys.exit(main())
