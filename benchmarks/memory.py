"""What the driver holds in memory on every node, idle.

All four processes of the DaemonSet run at once on one node, with the HTTP endpoints that the chart opens, with the
image's byte code and with a service account as in a cluster. They have worked: the provisioner has installed three
versions from a tenant, the server has mounted one, the sidecars were asked. What they hold is read some seconds later.
RSS counts a page that several processes share in each of them, and PSS divides it among those that share it. This
process and others on the machine map the same interpreter, and so lower PSS. What the node would hold with nothing else
on it counts each page of the four processes once.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import trustme
from deploy.image import bytecode

from benchmarks import floors, results
from benchmarks.results import Result
from oneagent.common.identifiers import Version
from oneagent.common.kubernetes import client
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2_grpc
from oneagent.csi_driver.linux import syscalls
from tests.cluster import held_memory
from tests.fakes import kube_api, node, packages, ports, tenant

_VERSIONS: Final = [Version(f"1.{minor}.0.20240801-120000") for minor in (297, 298, 299)]
_PACKAGE_BYTES: Final = 64 << 20
_PUBLISHES: Final = 200
_ASKED: Final = 20
_IDLE_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 60.0
_NODE_MIB: Final = 85.0
_NODE_PRIVATE_DIRTY_MIB: Final = 70.0
_LIMITS: Final = {"server": 60.0, "provisioner": 80.0, "registrar": 32.0, "livenessprobe": 32.0}
_SOURCES: Final = ("common", "csi_driver", "sidecars")


def run() -> list[Result]:
    with image_bytecode():
        held, node_mib = _node("kubernetes")
        directory, _ = _node("directory")
    rows = [results.at_most(f"rss_{name}_mib", held[name].rss, "MiB", limit) for name, limit in _LIMITS.items()]
    dirty = sum(one.private_dirty for one in held.values())
    rows.append(results.at_most("pss_node_mib", sum(one.pss for one in held.values()), "MiB", _NODE_MIB))
    rows.append(results.at_most("private_dirty_node_mib", dirty, "MiB", _NODE_PRIVATE_DIRTY_MIB))
    if node_mib is not None:
        rows.append(results.shown("held_node_mib", node_mib, "MiB"))
    rows.append(results.shown("rss_node_mib", sum(one.rss for one in held.values()), "MiB"))
    for name in _LIMITS:
        rows.append(results.shown(f"pss_{name}_mib", held[name].pss, "MiB"))
        rows.append(results.shown(f"private_dirty_{name}_mib", held[name].private_dirty, "MiB"))
    return [*rows, results.shown("rss_provisioner_directory_mib", directory["provisioner"].rss, "MiB")]


class ProcessMemory:
    """Memory of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        fields = dict(line.split(":") for line in text.splitlines()[1:])
        names = ("Rss", "Pss", "Private_Dirty")
        self.rss, self.pss, self.private_dirty = (int(fields[name].split()[0]) / 1024 for name in names)


@contextlib.contextmanager
def image_bytecode() -> Iterator[None]:
    """Processes that are started within use byte code as the image has it."""
    places = [*(Path(__file__).parents[1] / name for name in _SOURCES), *map(Path, _library_paths())]
    with tempfile.TemporaryDirectory(prefix="bench-bytecode-") as prefix:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": prefix}
        command = [
            sys.executable,
            "-X",
            "no_debug_ranges",
            bytecode.__file__,
            *(f"{place}={place}" for place in places),
        ]
        subprocess.run(command, env=environment, check=True)
        os.environ["PYTHONPYCACHEPREFIX"] = prefix
        try:
            yield
        finally:
            del os.environ["PYTHONPYCACHEPREFIX"]


def _library_paths() -> list[str]:
    paths = sysconfig.get_paths()
    return [paths["purelib"], paths["stdlib"]]


@contextlib.contextmanager
def _service_account(api: kube_api.KubeApi, authority: trustme.CA) -> Iterator[dict[str, str]]:
    """Provide a container's service account: files in this mount namespace, and the variables."""
    place = str(Path("/var/run").resolve())
    syscalls.mount("tmpfs", place, "tmpfs", 0, "")
    try:
        client.SERVICE_ACCOUNT.mkdir(parents=True)
        authority.cert_pem.write_to_path(str(client.SERVICE_ACCOUNT / "ca.crt"))
        (client.SERVICE_ACCOUNT / "token").write_text(api.token)
        (client.SERVICE_ACCOUNT / "namespace").write_text("dynatrace")
        host, port = api.url.removeprefix("https://").split(":")
        yield {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    finally:
        syscalls.umount2(place)


def _node(source: str) -> tuple[dict[str, ProcessMemory], float | None]:
    """Return the memory of each of the four processes, with the provisioner on one of its sources, and of all in MiB.

    Only the machine's root sees the latter.
    """
    metrics = ports.free()
    with contextlib.ExitStack() as stack:
        driver, kubelet = stack.enter_context(floors.running(f"--metrics-address=127.0.0.1:{metrics}"))
        endpoints = [f"http://127.0.0.1:{metrics}/metrics"]
        processes = {
            "provisioner": stack.enter_context(_provisioner(driver, source, endpoints)),
            "registrar": stack.enter_context(_registrar(driver, endpoints)),
            "livenessprobe": stack.enter_context(_livenessprobe(driver, endpoints)),
        }
        assert driver.process is not None
        _work(driver, kubelet, endpoints)
        time.sleep(_IDLE_SECONDS)
        pids = {name: process.pid for name, process in {"server": driver.process, **processes}.items()}
        try:
            node_mib = held_memory.held_mib(pids.values())
        except PermissionError:
            node_mib = None
        return {name: ProcessMemory(pid) for name, pid in pids.items()}, node_mib


def _work(driver: node.Driver, kubelet: node.Kubelet, endpoints: list[str]) -> None:
    for number in range(_PUBLISHES):
        kubelet.publish(f"pod{number}")
    for number in range(_PUBLISHES // 2):
        kubelet.unpublish(f"pod{number}")
    sockets = driver.place / "registration"
    _until(lambda: any(sockets.iterdir()), f"no socket in {sockets}")
    for _ in range(_ASKED):
        for url in endpoints:
            _until(functools.partial(_answers, url), f"{url} does not answer")
        with grpc.insecure_channel(f"unix:{next(sockets.iterdir())}") as channel:
            kubelet_side = pluginregistration_pb2_grpc.RegistrationStub(channel)
            kubelet_side.GetInfo(registration.InfoRequest(), timeout=10)


@contextlib.contextmanager
def _provisioner(driver: node.Driver, source: str, endpoints: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A provisioner that has installed the versions one after the other."""
    port = ports.free()
    endpoints.append(f"http://127.0.0.1:{port}/metrics")
    flags = [f"--data-dir={driver.data.root}", f"--metrics-address=127.0.0.1:{port}", "--node-id=node1"]
    # There is no operator, and there are no other nodes.
    flags += ["--operator-wait=0s", "--download-jitter=0s"]
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with contextlib.ExitStack() as stack:
        dynatrace = stack.enter_context(tenant.Tenant())
        for version in _VERSIONS:
            package = packages.build(driver.place / f"{version}.zip", version, filler=_PACKAGE_BYTES)
            dynatrace.release(version, package)
        api = stack.enter_context(kube_api.KubeApi(token="bench", tls=tls))
        environment = stack.enter_context(_service_account(api, authority))
        folder = driver.place / "dynakubes"
        folder.mkdir()
        (folder / "demo.token").write_text(tenant.TOKEN)
        if source == "directory":
            flags += ["--dynakube-source=directory", f"--dynakubes={folder}"]
        data = {"apiToken": base64.b64encode(tenant.TOKEN.encode()).decode()}
        api.put("secrets", {"metadata": {"name": "demo"}, "data": data})
        process = stack.enter_context(
            running(driver.place, "csi_driver.provisioner.main", *flags, environment=environment)
        )
        for version in _VERSIONS:
            kube = _dynakube(api, dynatrace.api_url, version)
            (folder / "demo.yaml").write_text(json.dumps(kube))
            api.put("dynakubes", kube)
            _until(functools.partial(_is_installed, driver, version), f"{version} is not installed")
        yield process


def _is_installed(driver: node.Driver, version: Version) -> bool:
    return any(driver.data.agents.glob(f"{version}_*"))


def _dynakube(api: kube_api.KubeApi, api_url: str, version: Version) -> dict[str, Any]:
    return {
        "apiVersion": f"{kube_api.GROUP}/{api.served[0]}",
        "kind": "DynaKube",
        "metadata": {"name": "demo", "namespace": "dynatrace"},
        "spec": {"apiUrl": api_url, "oneAgent": {"cloudNativeFullStack": {"version": version}}},
    }


@contextlib.contextmanager
def _registrar(driver: node.Driver, endpoints: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    port = ports.free()
    endpoints += [f"http://127.0.0.1:{port}/{page}" for page in ("healthz", "metrics")]
    (driver.place / "registration").mkdir()
    with running(
        driver.place,
        "sidecars.registrar",
        f"--csi-address={driver.socket}",
        f"--kubelet-registration-path={driver.socket}",
        f"--plugin-registration-path={driver.place}/registration",
        f"--http-endpoint=127.0.0.1:{port}",
    ) as process:
        yield process


@contextlib.contextmanager
def _livenessprobe(driver: node.Driver, endpoints: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    port = ports.free()
    endpoints += [f"http://127.0.0.1:{port}/{page}" for page in ("healthz", "metrics")]
    with running(
        driver.place, "sidecars.livenessprobe", f"--csi-address={driver.socket}", f"--http-endpoint=127.0.0.1:{port}"
    ) as process:
        yield process


@contextlib.contextmanager
def running(
    place: Path, module: str, *flags: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours with its log in `place`, ended on leaving."""
    with (place / f"{module}.log").open("wb") as log:
        command = [sys.executable, "-m", f"oneagent.{module}", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (environment or {}))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.read())
    except OSError:
        return False


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.05)
