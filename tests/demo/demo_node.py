"""The node of a demonstration: the driver's four processes, and kubelet's calls, below one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from oneagent.common.identifiers import DRIVER_NAME
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata import readonly
from tests.demo import kubelet, telling
from tests.demo.programs import ProgramFailedError, Programs
from tests.fakes import node, ports

_QUOTED_COLUMNS: Final = 100
"""Width of what commands say, so that it fits a terminal beside its frame."""


class DemoNode:
    volume_context = "dynakube=demo"
    """Attributes of a volume that names what it gets, as csc takes them"""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.folder = folder
        self.data = DataDir(folder / "data")
        self.socket = folder / "csi" / "csi.sock"
        self.target_root = folder / "kubelet"
        self.dynakubes = folder / "dynakubes"
        """YAML files that a cluster would have as objects"""
        self.programs = programs
        self.kubelet = node.Kubelet(self.socket, self.target_root)
        self._registry = folder / "registry"
        self._health_port = ports.free()
        for path in (self.target_root, self.dynakubes, self._registry):
            path.mkdir()

    def start_driver(self) -> None:
        here = f"--data-dir={self.data.root}"
        server = self.programs.start(
            "server",
            "oneagent.csi_driver.server.main",
            f"--endpoint=unix://{self.socket}",
            "--node-id=demo-node",
            here,
            f"--target-root={self.target_root}",
            "--log-format=text",
        )
        provisioner = self.programs.start(
            "provisioner",
            "oneagent.csi_driver.provisioner.main",
            here,
            "--dynakube-source=directory",
            f"--dynakubes={self.dynakubes}",
            "--log-format=text",
        )
        registrar = self.programs.start(
            "registrar",
            "oneagent.sidecars.registrar",
            f"--csi-address={self.socket}",
            f"--kubelet-registration-path={self.socket}",
            f"--plugin-registration-path={self._registry}",
            "--log-format=text",
        )
        probe = self.programs.start(
            "livenessprobe",
            "oneagent.sidecars.livenessprobe",
            f"--csi-address={self.socket}",
            f"--http-endpoint=127.0.0.1:{self._health_port}",
            "--log-format=text",
        )
        for program, what in (
            (server, f"serves CSI on {os.path.relpath(self.socket)}"),
            (provisioner, "keeps wanted agent versions on the disk; DynaKubes come from a folder of YAML files"),
            (registrar, "tells kubelet about the driver"),
            (probe, f"http://127.0.0.1:{self._health_port}/healthz"),
        ):
            telling.step(f"{program.name:<17}  pid {program.process.pid}  {what}")

    def register(self) -> None:
        place = self._registry / f"{DRIVER_NAME}-reg.sock"
        self.programs.until(place.exists, "the registration socket appears")
        info = kubelet.register(place)
        telling.step(f"kubelet sees {place.name}, asks GetInfo: {info.type} {info.name}, and registers it")
        self.programs.until(lambda: ports.get(self._health_port) == (200, "ok"), "/healthz is ok")
        telling.step("kubelet's liveness probe asks /healthz: 200 ok")

    def show(self, *words: str, expected: int) -> None:
        """Run `oneagent-csi` with these words on this node, and quote it."""
        done = subprocess.run(
            [sys.executable, "-m", "oneagent.csi_driver.cli.main", *words, f"--data-dir={self.data.root}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "COLUMNS": str(_QUOTED_COLUMNS)},
        )
        telling.quote(self.short(done.stdout or done.stderr))
        if done.returncode != expected:
            raise ProgramFailedError(f"oneagent-csi {words[0]} ended with {done.returncode}, not with {expected}")

    def put_away(self, *pods: str) -> None:
        """Unpublish the volumes of these pods and of any other, and end the programs."""
        telling.chapter("The pods go")
        published = {self.kubelet.volume_id(pod): str(self.kubelet.target(pod)) for pod in pods}
        # With --keep, the user may have published more volumes.
        published |= {row.id: row.target for row in readonly.read(self.data).volumes}
        for volume, target in published.items():
            request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target)
            self.kubelet.node.NodeUnpublishVolume(request, timeout=20)
        left = mount_table.at_or_below(mount_table.read(), str(self.target_root))
        volumes = os.listdir(self.data.volumes)
        if left or volumes:
            raise ProgramFailedError(
                f"after unpublish there still are {[mount.target for mount in left]} and {volumes}"
            )
        telling.step(
            f"kubelet unpublishes {len(published)} volumes: nothing is mounted any more, their upper layers are trash"
        )
        sizes = ", ".join(f"{program.name} {program.resident_mib():.0f} MiB" for program in self.programs)
        telling.step(f"resident memory: {sizes}")
        number = {4: "four", 5: "five"}[len([*self.programs])]
        # gRPC prints a line about each connection that the driver has to end for its client.
        self.kubelet.channel.close()
        codes = self.programs.end()
        if any(codes.values()):
            raise ProgramFailedError(f"exit codes after SIGTERM: {codes}")
        telling.step(f"SIGTERM: all {number} processes have ended, each with exit code 0")

    def short(self, text: str) -> str:
        return text.replace(f"{self.folder}/", "")
