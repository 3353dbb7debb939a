"""The work that no driver can leave out: the folder, the overlay mount and the call around them.

`Floor` makes and removes the same kind of mount as the server does, of the same layers with the same flags,
from this process and so without anything in between. Its upper and work folders are made beforehand.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server import overlay
from tests.fakes import node

LAYER: Final = LayerId("0123456789abcdef")
CALL_SECONDS: Final = 60.0


class Floor:
    """Bare mounts beside a driver's. All times are in seconds."""

    def __init__(self, driver: node.Driver, kubelet: node.Kubelet) -> None:
        wanted = node.demo(layer=LAYER)
        layer = driver.data.config_layer(wanted.tenant, LAYER)
        self._lower = f"{layer}:{driver.data.agent(wanted.version)}"
        self._place = driver.place / "floor"
        self._kubelet = kubelet
        self._more = ",userxattr" if in_user_namespace() else ""
        self._empty = csi_pb2.NodeGetInfoRequest()

    def prepare(self, name: str) -> None:
        """Make what has to be there before the mount, as kubelet and we do."""
        place = self._place / name
        for folder in ("parent", "upper/agent/conf", "work"):
            (place / folder).mkdir(parents=True)

    def call(self) -> float:
        """A call that does nothing."""
        started = time.perf_counter()
        self._kubelet.node.NodeGetInfo(self._empty, timeout=CALL_SECONDS)
        return time.perf_counter() - started

    def mount(self, name: str) -> float:
        """The folder and the mount."""
        place = f"{self._place}/{name}"
        options = f"lowerdir={self._lower},upperdir={place}/upper,workdir={place}/work{self._more}"
        started = time.perf_counter()
        os.mkdir(f"{place}/parent/mount")
        syscalls.mount("overlay", f"{place}/parent/mount", "overlay", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
        return time.perf_counter() - started

    def unmount(self, name: str) -> float:
        """Both undone."""
        target = f"{self._place}/{name}/parent/mount"
        started = time.perf_counter()
        syscalls.umount2(target)
        os.rmdir(target)
        return time.perf_counter() - started


def in_user_namespace() -> bool:
    return overlay.in_user_namespace(Path("/proc/self/uid_map").read_text())


@contextlib.contextmanager
def running(*flags: str, within: Path | None = None) -> Iterator[tuple[node.Driver, node.Kubelet]]:
    """A driver whose views have a config layer as they do in the field; nothing is left behind."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=within) as place,
        mounted_as_volumes(Path(place)),
        node.running(Path(place), *flags) as (driver, kubelet),
    ):
        wanted = node.demo(layer=LAYER)
        conf = driver.data.config_layer(wanted.tenant, LAYER) / "agent/conf"
        conf.mkdir(parents=True)
        (conf / "ruxitagentproc.conf").write_text("[general]\ntenant abc12345\n")
        node.want(driver.data, wanted)
        try:
            yield driver, kubelet
        finally:
            kubelet.channel.close()


@contextlib.contextmanager
def mounted_as_volumes(place: Path) -> Iterator[None]:
    """Data folder and kubelet's folder as mounts of their own, which they are in the server's container.

    It matters: for each layer mount(2) looks at every mount that hangs on the layer's own mount
    (clone_private_mount), so with the views on the same mount as the layers it gets slower with each view.
    """
    folders = [place / "data", place / "kubelet"]
    for folder in folders:
        folder.mkdir()
        syscalls.mount(str(folder), str(folder), "", syscalls.MS_BIND)
    try:
        yield
    finally:
        for folder in folders:
            # Kubelet's folder is gone already if the driver's fake has unmounted all that is at or below it.
            with contextlib.suppress(OSError):
                syscalls.umount2(str(folder))


@contextlib.contextmanager
def beside(driver: node.Driver, kubelet: node.Kubelet) -> Iterator[Floor]:
    """A floor, of which nothing stays mounted."""
    floor = Floor(driver, kubelet)
    try:
        yield floor
    finally:
        for target in (driver.place / "floor").glob("*/parent/mount"):
            with contextlib.suppress(OSError):
                syscalls.umount2(str(target))
