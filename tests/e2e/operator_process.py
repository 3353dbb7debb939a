"""The operator as a process beside the cluster, with the rights of its service account and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import SERVER
from tests.cluster.kubectl import Kubectl, Manifest
from tests.e2e.manifests import NAMESPACE
from tests.fakes import ports

ACCOUNT: Final = "oneagent-operator"
PATIENT: Final = "--lease-duration=60s"
"""Who can't renew the Lease in time ends, and here nobody would start it again."""
_DEPLOY: Final = Path("deploy/operator.yaml")


class Operator:
    """One process; `start` and `kill` may be repeated."""

    def __init__(self, kubeconfig: Path, log: Path, *flags: str, identity: str = "first") -> None:
        self.log, self._kubeconfig, self._flags, self._identity = log, kubeconfig, flags, identity
        self.port = ports.free()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def rss_mib(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / (1 << 20)

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "oneagent.operator.main", "--log-format=text", "--lease-duration=15s"),
            *(f"--identity={self._identity}", f"--metrics-address=127.0.0.1:{self.port}", *self._flags),
        ]
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), "POD_NAMESPACE": NAMESPACE}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def end(self) -> None:
        """However it ends, it is gone; as a rule it gives the Lease back."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def ready(self) -> bool:
        try:
            return self.get("/readyz") == "ok\n"
        except OSError:
            return False

    def leads(self) -> bool:
        return "leader_election: lease acquired" in self.log.read_text().rpartition("main: operating")[2]

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(10)


def install_rights(kubectl: Kubectl) -> None:
    """Service account and roles of `deploy/operator.yaml`, without the Deployment."""
    found: list[Manifest] = [
        m for m in yaml.load_all(_DEPLOY.read_text(), yaml.CSafeLoader) if m["kind"] != "Deployment"
    ]
    kubectl.apply(*found)


def kubeconfig(cluster: Cluster, path: Path, account: str = ACCOUNT) -> Path:
    """One with a token of the operator's service account, or of another one."""
    token = cluster.kubectl("-n", NAMESPACE, "create", "token", account, "--duration=2h").strip()
    content: dict[str, Any] = yaml.load(cluster.control_plane.admin.read_text(), yaml.CSafeLoader)
    content["users"][0]["user"] = {"token": token}
    assert content["clusters"][0]["cluster"]["server"] == SERVER
    path.write_text(yaml.safe_dump(content))
    return path


def through(kubeconfig: Path, port: int, path: Path) -> Path:
    """The same by another way: a port of the loopback device."""
    path.write_text(kubeconfig.read_text().replace(SERVER, f"https://127.0.0.1:{port}"))
    return path


@contextlib.contextmanager
def running(operator: Operator) -> Iterator[Operator]:
    operator.start()
    try:
        yield operator
    finally:
        operator.end()
