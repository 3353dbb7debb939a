"""A node with a real driver: data directory, kubelet's directory, server process, and a client in kubelet's role.

Used by the node ring, the benchmarks and the demonstration. It needs a mount namespace of its own, so that no
mount stays behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.store import store_key

VERSION = store_key.of_version(Version("1.277.0.20230914-094321"), "the tests")
LAYER = LayerId("configured")
"""A config layer with which agents can report; `want` makes it."""


def install(data: DataDir, version: Version = VERSION, content: bytes = b"library") -> None:
    """Put a small version into the store, by one rename, as the provisioner does."""
    tree = data.tmp / f"{version}.install"
    library = tree / PRELOAD_LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(content)
    (tree / "agent/conf").mkdir()
    (tree / "agent/conf/ruxitagentproc.conf").write_text("[general]\nfromPackage yes\n")
    for directory in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        directory.chmod(0o1777)
    tree.rename(data.agent(version))


def add_layer(data: DataDir, tenant: TenantId, layer: LayerId = LAYER, content: str = "") -> None:
    """Put a config layer on the disk, unless it is there."""
    file = data.config_layer(tenant, layer) / "agent/conf/ruxitagentproc.conf"
    if not file.exists():
        file.parent.mkdir(parents=True)
        file.write_text(content or f"[general]\nfromPackage yes\ntenant {tenant}\ntenantToken {tenant}.token\n")
        for directory in file.parents[:3]:
            directory.chmod(0o1777)


def torn_layer(data: DataDir) -> LayerId:
    """A config layer of the DynaKube `demo` with which the kernel refuses to mount: no layer may lie on procfs."""
    layer = LayerId("torn")
    place = data.config_layer(demo().tenant, layer)
    place.parent.mkdir(exist_ok=True)
    if not place.is_symlink():
        place.symlink_to("/proc")
    return layer


def want(data: DataDir, *wanted: desired_versions.DesiredState) -> None:
    """Write the desired state of DynaKubes, as the provisioner does."""
    for row in wanted:
        for layer, tenant in ((row.layer, row.tenant), (row.good_layer, row.tenant)):
            if layer == LAYER:
                add_layer(data, tenant)
    metadata = database.Database(data.database, data.database_lock)
    desired_versions.replace_all(metadata, data.dynakubes, wanted)
    metadata.close()


def demo(**fields: Any) -> desired_versions.DesiredState:
    """Return the desired state of the DynaKube `demo`."""
    defaults: dict[str, Any] = {
        "name": DynaKubeName("demo"),
        "tenant": TenantId("abc12345"),
        "version": VERSION,
        "layer": LAYER,
        "good_layer": LAYER if fields.get("good_version") else LayerId(""),
    }
    return desired_versions.DesiredState(**(defaults | fields))


class Kubelet:
    """Kubelet's work for an inline volume: creates the parent directory, calls, and cleans up."""

    def __init__(self, endpoint: Path, root: Path) -> None:
        self.root = root
        self.channel = grpc.insecure_channel(f"unix:{endpoint}")
        self.identity = csi_pb2_grpc.IdentityStub(self.channel)
        self.node = csi_pb2_grpc.NodeStub(self.channel)

    def target(self, pod: str) -> Path:
        return self.root / "pods" / pod / "volumes/kubernetes.io~csi/oneagent-bin/mount"

    @staticmethod
    def volume_id(pod: str) -> str:
        return f"csi-{pod}"

    def request(
        self, pod: str, *, read_only: bool = False, mount_flags: tuple[str, ...] = (), **attributes: str
    ) -> csi_pb2.NodePublishVolumeRequest:
        """The request that kubelet sends for a pod; `attributes` are the volume's, `_` stands for `/` nowhere."""
        context: Mapping[str, str] = {
            "csi.storage.k8s.io/pod.name": pod,
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": f"uid-{pod}",
            "csi.storage.k8s.io/ephemeral": "true",
            "mode": "app",
            "dynakube": "demo",
        } | attributes
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=self.volume_id(pod),
            target_path=str(self.target(pod)),
            readonly=read_only,
            volume_context={key: value for key, value in context.items() if value},
        )
        request.volume_capability.mount.mount_flags.extend(mount_flags)
        request.volume_capability.access_mode.mode = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
        return request

    def publish(self, pod: str, *, timeout: float = 20, **fields: Any) -> Path:
        """Publish a pod's volume; `grpc.RpcError` if the driver refuses."""
        self.target(pod).parent.mkdir(parents=True, exist_ok=True)
        self.node.NodePublishVolume(self.request(pod, **fields), timeout=timeout)
        return self.target(pod)

    def begin(self, pod: str, *, timeout: float = 20, **fields: Any) -> Any:
        """Publish without waiting for the answer: a future of it."""
        self.target(pod).parent.mkdir(parents=True, exist_ok=True)
        return self.node.NodePublishVolume.future(self.request(pod, **fields), timeout=timeout)

    def unpublish(self, pod: str, *, timeout: float = 20) -> None:
        self.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=self.volume_id(pod), target_path=str(self.target(pod))),
            timeout=timeout,
        )

    def forget(self, pod: str) -> None:
        """Remove the volume's directories, as kubelet does once the pod is gone."""
        with contextlib.suppress(OSError):
            os.removedirs(self.target(pod).parent)

    def stats(self, pod: str) -> csi_pb2.NodeGetVolumeStatsResponse:
        response: csi_pb2.NodeGetVolumeStatsResponse = self.node.NodeGetVolumeStats(
            csi_pb2.NodeGetVolumeStatsRequest(volume_id=self.volume_id(pod), volume_path=str(self.target(pod))),
            timeout=10,
        )
        return response


class Driver:
    """One server process on one data directory; `start` and `kill` may be repeated."""

    def __init__(self, place: Path, *flags: str, command: tuple[str, ...] = ()) -> None:
        self.place = place
        self.data = DataDir(place / "data")
        self.data.create()
        self.target_root = place / "kubelet"
        self.target_root.mkdir(exist_ok=True)
        self.socket = place / "csi" / "csi.sock"
        self._flags = flags
        self._command = command or (sys.executable, "-m", "oneagent.csi_driver.server.main")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = place / "server.log"

    def start(self, *, wait: bool = True, environment: Mapping[str, str] | None = None) -> Kubelet:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._command,
                    f"--endpoint=unix://{self.socket}",
                    "--node-id=node1",
                    f"--data-dir={self.data.root}",
                    f"--target-root={self.target_root}",
                    "--log-format=text",
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        kubelet = Kubelet(self.socket, self.target_root)
        if wait:
            self.wait_ready(kubelet)
        return kubelet

    def wait_ready(self, kubelet: Kubelet) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
            if self._accepts():
                kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=10, wait_for_ready=True)
                return
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def _accepts(self) -> bool:
        """Return whether the socket accepts; without gRPC, which waits a second after a dead server's socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL: the process cannot clean up."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def forget_peak(self) -> int:
        """Let the peak of the server's memory begin here; return its memory (bytes)."""
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def memory(self, field: str = "VmHWM") -> int:
        """Return bytes: `VmRSS` now, `VmHWM` at the peak."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) << 10

    def rows(self) -> dict[str, dict[str, Any]]:
        """The volumes table as it is on disk, by volume id."""
        return {str(row["id"]): row for row in self.table("volumes")}

    def state(self, pod: str) -> str:
        """Return the state in the row of a pod's volume; empty without one. A mount is written a moment later."""
        return str(self.rows().get(Kubelet.volume_id(pod), {}).get("state", ""))

    def table(self, name: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.data.database, timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]

    def mounts(self) -> list[mount_table.Mount]:
        """Return the mounts below kubelet's directory."""
        return mount_table.at_or_below(mount_table.read(), str(self.target_root))


@contextlib.contextmanager
def running(place: Path, *flags: str) -> Iterator[tuple[Driver, Kubelet]]:
    """A driver with the DynaKube `demo`, its version installed; everything is unmounted at the end."""
    driver = Driver(place, *flags)
    install(driver.data)
    want(driver.data, demo())
    try:
        yield driver, driver.start()
    finally:
        driver.kill()
        unmount_all(driver)


def unmount_all(driver: Driver) -> None:
    for mount in reversed(driver.mounts()):
        subprocess.run(["umount", mount.target], check=False)
