"""What the driver holds in memory on every node, idle.

All four processes of the DaemonSet run at once on one node, with the HTTP endpoints that the chart opens, and have
worked: the provisioner has installed a version from a tenant, the server has mounted it, the sidecars were asked.
What they hold is read some seconds later. RSS counts a page that several processes share in each of them, so the
node's sum is of PSS, which divides it among those that share it. This process shares some of them too and so
lowers PSS a little; the sum of RSS, which it can't lower, is shown beside it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc

from benchmarks import floors, results
from benchmarks.results import Result
from oneagent.common.identifiers import Version
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2_grpc
from tests.fakes import kube_api, node, packages, ports, tenant

_VERSION: Final = Version("1.299.0.20240801-120000")
_PACKAGE_BYTES: Final = 64 << 20
_PUBLISHES: Final = 200
_ASKED: Final = 20
_IDLE_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 60.0
_NODE_MIB: Final = 150.0
_LIMITS: Final = {"server": 60.0, "provisioner": 80.0, "registrar": 32.0, "livenessprobe": 32.0}


def run() -> list[Result]:
    held = _node("kubernetes")
    rows = [results.at_most(f"rss_{name}_mib", held[name].rss, "MiB", limit) for name, limit in _LIMITS.items()]
    rows.append(results.at_most("pss_node_mib", sum(one.pss for one in held.values()), "MiB", _NODE_MIB))
    rows.append(results.shown("rss_node_mib", sum(one.rss for one in held.values()), "MiB"))
    rows += [results.shown(f"pss_{name}_mib", held[name].pss, "MiB") for name in _LIMITS]
    return [*rows, results.shown("rss_provisioner_directory_mib", _node("directory")["provisioner"].rss, "MiB")]


class ProcessMemory:
    """Memory of a process, in MiB."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        fields = dict(line.split(":") for line in text.splitlines()[1:])
        self.rss, self.pss = (int(fields[name].split()[0]) / 1024 for name in ("Rss", "Pss"))


def _node(source: str) -> dict[str, ProcessMemory]:
    """What each of the four processes holds, with the provisioner on one of its sources."""
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
        return {name: ProcessMemory(process) for name, process in {"server": driver.process, **processes}.items()}


def _work(driver: node.Driver, kubelet: node.Kubelet, endpoints: list[str]) -> None:
    _until(lambda: any(driver.data.agents.glob(f"{_VERSION}_*")), f"{_VERSION} is not installed")
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
    port = ports.free()
    endpoints.append(f"http://127.0.0.1:{port}/metrics")
    flags = [f"--data-dir={driver.data.root}", f"--metrics-address=127.0.0.1:{port}", "--node-id=node1"]
    package = packages.build(driver.place / "agent.zip", _VERSION, filler=_PACKAGE_BYTES)
    with tenant.Tenant() as dynatrace, kube_api.KubeApi() as api:
        dynatrace.release(_VERSION, package)
        kube = {
            "apiVersion": f"{kube_api.GROUP}/{api.served[0]}",
            "kind": "DynaKube",
            "metadata": {"name": "demo", "namespace": "dynatrace"},
            "spec": {"apiUrl": dynatrace.api_url, "oneAgent": {"cloudNativeFullStack": {}}},
        }
        if source == "directory":
            folder = driver.place / "dynakubes"
            folder.mkdir()
            (folder / "demo.yaml").write_text(json.dumps(kube))
            (folder / "demo.token").write_text(tenant.TOKEN)
            flags += ["--dynakube-source=directory", f"--dynakubes={folder}"]
        else:
            data = {"apiToken": base64.b64encode(tenant.TOKEN.encode()).decode()}
            api.put("secrets", {"metadata": {"name": "demo"}, "data": data})
            api.put("dynakubes", kube)
            flags += ["--dynakube-source=kubernetes", f"--kubeconfig={api.kubeconfig(driver.place / 'kubeconfig')}"]
        with _running(driver, "csi_driver.provisioner.main", *flags) as process:
            yield process


@contextlib.contextmanager
def _registrar(driver: node.Driver, endpoints: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    port = ports.free()
    endpoints.append(f"http://127.0.0.1:{port}/healthz")
    (driver.place / "registration").mkdir()
    with _running(
        driver,
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
    endpoints.append(f"http://127.0.0.1:{port}/healthz")
    with _running(
        driver, "sidecars.livenessprobe", f"--csi-address={driver.socket}", f"--http-endpoint=127.0.0.1:{port}"
    ) as process:
        yield process


@contextlib.contextmanager
def _running(driver: node.Driver, module: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended on leaving."""
    with (driver.place / f"{module}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", f"oneagent.{module}", *flags], stdout=log, stderr=log)
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
