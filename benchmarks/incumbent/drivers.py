"""Both drivers, each as its chart runs it, with what the measures read of them.

The sidecars are left out on both sides: those of the Dynatrace Operator of this release are programs of others.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import psutil

from benchmarks import floors, memory
from oneagent.common.dynakube.api.versions import NEWEST
from oneagent.common.identifiers import Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.linux import mount_table, syscalls
from tests.cluster.control_plane import ControlPlane
from tests.cluster.held_memory import held_mib
from tests.cluster.processes import Program
from tests.e2e import dynakubes
from tests.e2e.manifests import NAMESPACE
from tests.fakes import node, ports
from tests.fakes.tenant import Tenant

MODULE: Final = Path("tests/incumbent")
PROGRAM: Final = MODULE / "bin/cmd"
DYNAKUBE: Final = "demo"
_DATA: Final = Path("/data")
"""The Dynatrace Operator's data directory cannot be configured."""
_MNT_DETACH: Final = 2
_PATIENCE_SECONDS: Final = 120.0


def version() -> str:
    """Return the release of the Dynatrace Operator that is measured."""
    found = re.search(
        r"^require github\.com/Dynatrace/dynatrace-operator (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE
    )
    assert found is not None
    return found[1]


class _Kubelet(node.Kubelet):
    """Its volumes have the attributes that both webhooks set."""

    def request(self, pod: str, **fields: Any) -> csi_pb2.NodePublishVolumeRequest:
        return super().request(pod, retryTimeout="10m", **fields)


@dataclass
class Driver:
    """A running driver with its process ids."""

    name: str
    socket: Path
    kubelet: node.Kubelet
    pids: dict[str, int]

    def processor_seconds(self) -> float:
        """Return the processor time of all processes until now, with that of children that have ended."""
        return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in self.pids.values())

    def held_mib(self) -> float:
        """Return the memory of all processes, with each page counted once."""
        return held_mib(self.pids.values())

    def private_dirty_mib(self) -> float:
        return sum(memory.ProcessMemory(pid).private_dirty for pid in self.pids.values())

    def mounts(self, pod: str) -> list[mount_table.Mount]:
        """Return the mounts of a published pod, wherever they are."""
        mounts = mount_table.read()
        view = mount_table.top_at(mounts, str(self.kubelet.target(pod)))
        return [one for one in mounts if view and one.device == view.device]

    def wait_installed(self) -> None:
        """Wait until a pod gets the agent. A new pod each time: a driver may give one up."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for number in range(int(_PATIENCE_SECONDS)):
            pod = f"installed{number}"
            with contextlib.suppress(grpc.RpcError):
                self.kubelet.publish(pod)
            has_agent = any(one.fs_type == "overlay" for one in self.mounts(pod))
            self.kubelet.unpublish(pod)
            if has_agent:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        raise TimeoutError(f"{self.name}: no agent after {_PATIENCE_SECONDS:.0f} s")


def make_mounts_private() -> None:
    """Keep each mount single: those of a sandbox are shared, and more often copied below `/data` than elsewhere."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def create_objects(plane: ControlPlane, tenant: Tenant, wanted: Version) -> None:
    """Create the DynaKube for both, with what the operators would write: the version, and for theirs a Secret."""
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dynakubes.dynatrace.com"
    # There is no webhook. The versions that the two read have the same fields, as far as they are used.
    plane.call("PATCH", crd, {"spec": {"conversion": {"strategy": "None", "webhook": None}}})
    path = f"/apis/dynatrace.com/{NEWEST}/namespaces/{NAMESPACE}/dynakubes"
    plane.create(path, dynakubes.dynakube(DYNAKUBE, tenant.api_url, "shop", version=wanted))
    connection = {"connectionInfoStatus": {"tenantUUID": tenant.tenant}}
    status = {"codeModules": {"version": wanted}, "oneAgent": connection, "phase": "Running"}
    plane.call("PATCH", f"{path}/{DYNAKUBE}/status", {"status": status})
    properties = [{"section": "general", "key": "tenant", "value": tenant.tenant}]
    config = json.dumps({"revision": 1, "properties": properties}).encode()
    secret = dynakubes.secret(DYNAKUBE, tenant.token)
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{DYNAKUBE}-pmc-secret", "namespace": NAMESPACE},
        "data": {"ruxitagentproc.conf": base64.b64encode(config).decode()},
    }
    for one in (secret, theirs):
        plane.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", one)


@contextlib.contextmanager
def here(place: Path, kubeconfig: Path) -> Iterator[Driver]:
    """This project's driver."""
    place.mkdir()
    with floors.mounted_as_volumes(place), memory.image_bytecode(), contextlib.ExitStack() as stack:
        metrics = [f"--metrics-address=127.0.0.1:{ports.free()}" for _ in range(2)]
        driver = node.Driver(place, "--log-format=json", metrics[0])
        stack.callback(driver.kill)
        driver.start().channel.close()
        flags = [f"--data-dir={driver.data.root}", metrics[1], f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"]
        # There is no operator, and there are no other nodes.
        flags += ["--node-id=node1", "--operator-wait=0s", "--download-jitter=0s"]
        provisioner = stack.enter_context(memory.running(place, "csi_driver.provisioner.main", *flags))
        assert driver.process is not None
        pids = {"server": driver.process.pid, "provisioner": provisioner.pid}
        yield Driver("here", driver.socket, _Kubelet(driver.socket, driver.target_root), pids)


class Incumbent:
    """The Dynatrace Operator's driver. `start_server` may be repeated, with other variables."""

    def __init__(self, place: Path, kubeconfig: Path) -> None:
        self._place = place
        self._environment = {"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": NAMESPACE, "KUBE_NODE_NAME": "node1"}
        self._socket = place / "csi.sock"
        self._server: Program | None = None
        self._provisioner = self._program("csi-provisioner")

    def start(self) -> Driver:
        initialized = self._program("csi-init")
        initialized.start()
        while initialized.running:
            time.sleep(0.05)
        self._provisioner.start()
        return self.start_server()

    def start_server(self, variables: Mapping[str, str] | None = None) -> Driver:
        """Start or restart the server; return the driver as it is now."""
        if self._server is not None:
            self._server.stop()
        arguments = (f"--endpoint=unix:{self._socket}", "--node-id=node1")
        self._server = self._program("csi-server", *arguments, variables=variables)
        self._server.start()
        self._server.wait_ready()
        kubelet = _Kubelet(self._socket, self._place / "kubelet")
        pids = {"server": self._server.pid, "provisioner": self._provisioner.pid}
        return Driver(f"Dynatrace Operator {version()}", self._socket, kubelet, pids)

    def end(self) -> None:
        for program in (self._server, self._provisioner):
            if program is not None:
                program.kill()

    def _program(self, command: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Program:
        log, environment = self._place / f"{command}.log", {**self._environment, **(variables or {})}
        return Program(command, [PROGRAM, command, *arguments], log, self._accepts, environment)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0


@contextlib.contextmanager
def incumbent(place: Path, kubeconfig: Path) -> Iterator[Incumbent]:
    """The Dynatrace Operator's driver, not started. Its data directory is a mount, as in its container."""
    place.mkdir()
    with floors.mounted_as_volumes(place), contextlib.ExitStack() as stack:
        if not _DATA.exists():
            _DATA.mkdir()
            stack.callback(_DATA.rmdir)
        syscalls.mount(str(place / "data"), str(_DATA), "", syscalls.MS_BIND)
        stack.callback(syscalls.umount2, str(_DATA), _MNT_DETACH)
        found = Incumbent(place, kubeconfig)
        stack.callback(found.end)
        yield found
