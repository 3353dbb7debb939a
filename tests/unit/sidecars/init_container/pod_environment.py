"""What an init container finds: its folders, and the variables that the webhook sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from oneagent.common.agents import oneagent
from oneagent.common.injection import inert_library
from oneagent.sidecars.init_container import settings
from oneagent.sidecars.init_container.settings import InitContainerSettings, Places

IDENTITY = {
    "K8S_PODNAME": "shop-7f9c-x2x",
    "K8S_PODUID": "0f1e2d3c-uid",
    "K8S_BASEPODNAME": "shop-7f9c",
    "K8S_NAMESPACE": "shop",
    "K8S_NODE_NAME": "node-1",
    "K8S_CLUSTER_ID": "c0ffee",
    "DT_WORKLOAD_KIND": "Deployment",
    "DT_WORKLOAD_NAME": "shop",
}
CONTAINERS = {
    "CONTAINERS_COUNT": "2",
    "CONTAINER_1_NAME": "app",
    "CONTAINER_1_IMAGE": "registry.example/app:1",
    "CONTAINER_2_NAME": "proxy",
    "CONTAINER_2_IMAGE": "registry.example/proxy:2",
}


def variables(mode: str, policy: str = "silent", **more: str) -> dict[str, str]:
    given = {"FAILURE_POLICY": policy, "MODE": mode, "ONEAGENT_INJECTED": "true", "DATA_INGEST_INJECTED": "true"}
    return {**given, **IDENTITY, **CONTAINERS, **more}


def wanted(mode: str, **more: str) -> InitContainerSettings:
    return settings.read(variables(mode, **more))


class Pod:
    """The volumes of one pod, in which its init container may be started again and again."""

    def __init__(self, root: Path) -> None:
        self.bin, self.share, self.config = root / "bin", root / "share", root / "config"
        self.message = root / "termination-log"
        for folder in (self.bin, self.share, self.config):
            folder.mkdir(parents=True)
        self.message.touch()

    @property
    def places(self) -> Places:
        return Places(str(self.bin), str(self.share), str(self.config), str(self.message))

    @property
    def preloaded(self) -> bool:
        """True if the application would load an agent."""
        return self.library.exists() and not inert_library.is_inert(str(self.library))

    @property
    def library(self) -> Path:
        return self.bin / oneagent.PRELOAD_LIBRARY

    def place_inert_library(self) -> None:
        self.library.parent.mkdir(parents=True)
        self.library.write_bytes(inert_library.render())

    def start(self, environ: dict[str, str], stderr: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[str]:
        places = self.places
        command = [
            *(sys.executable, "-m", "oneagent.sidecars.init_container.main"),
            *(f"--bin={places.bin}", f"--share={places.share}", f"--config={places.config}"),
            f"--termination-log={places.termination_log}",
        ]
        clean = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "HOME") if key in os.environ}
        return subprocess.Popen(command, env={**clean, **environ}, stderr=stderr, text=True)

    def run(self, environ: dict[str, str]) -> tuple[int, str]:
        """Exit code and what it said."""
        process = self.start(environ)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def view(self, *, library: bool = True) -> None:
        """What the CSI driver mounts."""
        files = {"agent/conf/ruxitagentproc.conf": "[general]\n"}
        for name, text in (files | ({oneagent.PRELOAD_LIBRARY: "\x7fELF"} if library else {})).items():
            path = self.bin / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
