"""A whole cluster of one node, inside a sandbox."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tests.cluster import sandbox
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.cluster.processes import NotReadyError, Program

PROGRAMS: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""What the distribution has to give, and the package of Debian that has it."""


class Cluster:
    def __init__(self) -> None:
        self.folder = Path(os.environ[sandbox.FOLDER_VARIABLE])
        self.control_plane = ControlPlane(self.folder / "control-plane")
        self.node = Node(self.folder / "node", self.control_plane, sandbox.group(self.folder))
        self.kubectl = Kubectl(self.control_plane.admin)

    def start(self, *images: Path) -> None:
        """Returns once the node is ready and has the images."""
        self.node.start_containerd()
        self.control_plane.start()
        for archive in images:
            self.node.load_image(archive)
        self.node.start_kubelet()
        self.wait_node_ready()

    def wait_node_ready(self, within_seconds: float = 60) -> None:
        deadline = time.monotonic() + within_seconds
        while not self._node_ready():
            if time.monotonic() > deadline:
                raise NotReadyError(f"the node is not ready:\n{self.node.kubelet.last_lines()}")
            time.sleep(0.2)

    def programs(self) -> tuple[Program, ...]:
        return (*self.control_plane.programs(), *self.node.programs())

    def stop(self) -> None:
        for program in reversed(self.programs()):
            program.kill()

    def _node_ready(self) -> bool:
        nodes = self.kubectl.json("get", "nodes")["items"]
        conditions = {item["type"]: item["status"] for node in nodes for item in node["status"].get("conditions", ())}
        accounts = self.kubectl.json("get", "serviceaccounts", "-n", "default")["items"]
        return conditions.get("Ready") == "True" and bool(accounts)
