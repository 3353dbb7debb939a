"""Process 1 of a sandbox: arranges mounts and network, runs the command, and reaps what loses its parent.

What it arranges is what a node's programs expect at fixed places, out of the run's folder: `/var/lib` and
`/var/log` under an overlay, with kubelet's and containerd's folders as plain mounts (no overlay can have its
upper layer on an overlay), and an empty `/run`. Mounts are shared among each other, as systemd makes them on a node,
so that what a privileged container mounts is seen by kubelet.

The network is a loopback device and a pair of devices that ends here: nothing leaves the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster import sandbox

NODE: Final = "node1"
NODE_ADDRESS: Final = "10.213.0.1"

PLAIN: Final = ("/var/lib/kubelet", "/var/lib/containerd", "/var/log/pods")
"""Folders of a node that are mounts of their own."""

# kubelet sets these for the whole machine. It leaves them alone where it finds what it wants, so it is shown
# files that say so; `protectKernelDefaults` makes it an error if one is missing here.
_KERNEL: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


def _call(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def arrange_mounts(folder: Path) -> None:
    _call("mount", "--make-rshared", "/")
    for path in ("/var/lib", "/var/log"):
        upper, work = (folder / f"{path.replace('/', '_')}_{part}" for part in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        _call("mount", "-t", "overlay", "-o", f"lowerdir={path},upperdir={upper},workdir={work}", "overlay", path)
    for path in PLAIN:
        own = folder / path.removeprefix("/")
        own.mkdir(parents=True)
        Path(path).mkdir(exist_ok=True)
        _call("mount", "--bind", own, path)
    _call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    shown = folder / "shown"
    shown.mkdir()
    kernel = {f"/proc/sys/{name}": f"{value}\n" for name, value in _KERNEL.items()}
    # Nobody answers for names in here, so nobody should be asked and waited for.
    names = {"/etc/hosts": f"127.0.0.1 localhost\n{NODE_ADDRESS} {NODE}\n", "/etc/resolv.conf": ""}
    for number, (path, text) in enumerate((kernel | names).items()):
        file = shown / str(number)
        file.write_text(text)
        _call("mount", "--bind", file, path)


def arrange_network() -> None:
    socket.sethostname(NODE)
    _call("ip", "link", "set", "lo", "up")
    _call("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "outside")
    _call("ip", "address", "add", f"{NODE_ADDRESS}/24", "dev", "eth0")
    for device in ("eth0", "outside"):
        _call("ip", "link", "set", device, "up")
    _call("ip", "route", "add", "default", "dev", "eth0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def main() -> None:
    folder = Path(os.environ[sandbox.FOLDER_VARIABLE])
    # A handler, since the command would inherit that a signal is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    arrange_mounts(folder)
    arrange_network()
    door = int(os.environ[sandbox.DOOR_VARIABLE])
    command = subprocess.Popen(sys.argv[1:], pass_fds=[door])
    while True:
        process, status = os.wait()
        if process == command.pid:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
