"""The main job, told step by step: from an empty node to an application with its agent, and back.

Every step is done by the real programs over their real interfaces. Played are only those who can't be here:
the tenant by the double that the tests use, and kubelet by a client that makes kubelet's calls.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Final

import grpc

from oneagent.common.identifiers import DRIVER_NAME, Version, agent_version
from oneagent.common.injection.contract import PRELOAD_LIBRARY
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata import readonly
from tests.demo import container, kubelet, telling
from tests.demo.library import Library
from tests.demo.programs import ProgramFailedError, Programs
from tests.fakes import node, packages, ports, tenant

VERSION: Final = Version(packages.VERSION)
POD: Final = "shop"
_DOWNLOAD_SECONDS: Final = 1.5
_ATTEMPT_SECONDS: Final = 2.0

_DYNAKUBE: Final = """\
apiVersion: dynatrace.com/v1beta1
kind: DynaKube
metadata: {{name: demo, namespace: dynatrace}}
spec:
  apiUrl: {api_url}
  oneAgent:
    cloudNativeFullStack: {{}}
"""
_SECRET: Final = """\
---
apiVersion: v1
kind: Secret
metadata: {{name: demo, namespace: dynatrace}}
stringData: {{apiToken: {token}}}
"""
_APPLICATION: Final = f"""\
echo "uid $(id -u); the root holds $(echo /*)"
echo "LD_PRELOAD=$LD_PRELOAD is mapped in it:"
grep -m 2 liboneagentproc.so /proc/self/maps
echo
echo "{container.AGENT}/agent/conf/container.conf, written for this pod:"
cat {container.AGENT}/agent/conf/container.conf
echo
echo "{container.AGENT}/agent/conf/ruxitagentproc.conf, merged for this DynaKube (without its token):"
grep -v tenantToken {container.AGENT}/agent/conf/ruxitagentproc.conf
echo "written by the application" > {container.AGENT}/agent/log/shop.log
"""


class Story:
    """One run below one folder; call `beginning`, `middle` and `end` in this order."""

    def __init__(self, folder: Path, programs: Programs, library: Library) -> None:
        self.folder = folder
        self.data = DataDir(folder / "data")
        self.socket = folder / "csi" / "csi.sock"
        self.target_root = folder / "kubelet"
        self._dynakubes = folder / "dynakubes"
        self._packages = folder / "packages"
        self._registry = folder / "registry"
        self.programs = programs
        self._library = library
        self._api_url = ""
        self._health_port = ports.free()
        self.kubelet = node.Kubelet(self.socket, self.target_root)
        for path in (self.target_root, self._dynakubes, self._packages, self._registry):
            path.mkdir()

    # ---------------------------------------------------------------- beginning

    def beginning(self) -> None:
        telling.chapter("The node starts")
        rate = int(self._build_package() / _DOWNLOAD_SECONDS)
        self._start_tenant(rate)
        self._start_driver()
        self._register()

    def _build_package(self) -> int:
        path = self._packages / f"{VERSION}.zip"
        content = self._library.path.read_bytes()
        with zipfile.ZipFile(path.with_suffix(".new"), "w") as archive:
            packages.write(archive, PRELOAD_LIBRARY, content, 0o100755)
            packages.write(archive, "agent/conf/ruxitagentproc.conf", b"[general]\nlibjava on\n")
            packages.write(archive, "agent/log/", mode=0o040755)
        path.with_suffix(".new").rename(path)
        telling.step(
            f"agent package {VERSION} made, {path.stat().st_size >> 10} KiB; its agent library is "
            f"{self._library.kind.name}"
        )
        telling.quote([f"{self._library.kind.name}: {self._library.kind.about};", self._library.origin])
        return path.stat().st_size

    def _start_tenant(self, rate: int) -> None:
        port = self.folder / "tenant.port"
        where = (f"--packages={self._packages}", f"--port-file={port}", f"--bytes-per-second={rate}")
        program = self.programs.start("tenant", "tests.fakes.tenant", *where)
        self.programs.until(port.exists, "the tenant double listens")
        self._api_url = f"http://127.0.0.1:{port.read_text()}/api"
        telling.step(f"tenant double      pid {program.process.pid}  {self._api_url}, downloads at {rate >> 10} KiB/s")

    def _start_driver(self) -> None:
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
            f"--dynakubes={self._dynakubes}",
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

    def _register(self) -> None:
        place = self._registry / f"{DRIVER_NAME}-reg.sock"
        self.programs.until(place.exists, "the registration socket appears")
        info = kubelet.register(place)
        telling.step(f"kubelet sees {place.name}, asks GetInfo: {info.type} {info.name}, and registers it")
        self.programs.until(lambda: ports.get(self._health_port) == (200, "ok"), "/healthz is ok")
        telling.step("kubelet's liveness probe asks /healthz: 200 ok")

    # ------------------------------------------------------------------- middle

    def middle(self) -> None:
        telling.chapter("A pod comes before anybody has said which agent it shall have")
        self._refused()
        telling.chapter("The DynaKube says it")
        self._wait_for_version()
        telling.chapter("The container starts")
        self._run_application()
        self._second_pod()
        telling.chapter("What the node says: oneagent-csi status")
        self.show_status(expected=0)

    def _refused(self) -> None:
        started = time.monotonic()
        try:
            self.kubelet.publish(POD, timeout=_ATTEMPT_SECONDS)
        except grpc.RpcError as error:
            took = time.monotonic() - started
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            telling.step(f"kubelet asks for the volume of pod {POD!r}; the driver waits {took:.1f} s and answers")
            telling.quote(f"{error.code().name}: {error.details()}")
            return
        raise ProgramFailedError("a volume was published although no DynaKube is known")

    def _wait_for_version(self) -> None:
        text = _DYNAKUBE.format(api_url=self._api_url)
        calls = concurrent.futures.ThreadPoolExecutor(1)
        publishing = calls.submit(self._timed_publish, POD)
        calls.shutdown(wait=False)
        telling.step("kubelet tries again, and this call waits for as long as it takes")
        (self._dynakubes / "demo.yaml").write_text(text + _SECRET.format(token=tenant.TOKEN))
        telling.step("kubectl apply, so to speak:")
        telling.quote(text)
        seen = ""
        while not publishing.done():
            self.programs.check()
            state = self._state_of_version()
            if state and state != seen:
                telling.step(f"version {VERSION}: {state}")
            seen = state
            time.sleep(0.005)
        waited = publishing.result()
        if seen != "ready":
            telling.step(f"version {VERSION}: ready")
        late = time.time() - self.data.agents.stat().st_mtime
        telling.step(
            f"kubelet's call returns OK after {waited:.2f} s, {late * 1000:.0f} ms after the version came into the "
            "store"
        )
        telling.step("the kernel's mount table now has")
        layers = ("lowerdir", "lowerdir+", "upperdir", "workdir")
        for mount in mount_table.at_or_below(mount_table.read(), str(self.kubelet.target(POD))):
            telling.quote([f"{mount.fs_type} on {self._short(mount.target)}"])
            telling.quote(
                f"  {self._short(option)}" for option in mount.super_options if option.split("=")[0] in layers
            )

    def _timed_publish(self, pod: str) -> float:
        started = time.monotonic()
        self.kubelet.publish(pod)
        return time.monotonic() - started

    def _state_of_version(self) -> str:
        if next(self.data.agents.glob(f"{VERSION}_*"), None):
            return "ready"
        rows = readonly.read(self.data).versions
        return next((row.state for row in rows if agent_version(row.version) == VERSION), "")

    def _run_application(self) -> None:
        user = f"user {container.USER}" if container.has_other_users() else "root of this user namespace"
        telling.step(f"a process in a root of its own, as {user}, with the volume at {container.AGENT}:")
        telling.quote(self._contained(_APPLICATION))
        telling.step(f"the same, to see what {self._library.kind.name} does in it:")
        effect = self._contained(self._library.kind.effect)
        if not effect.strip():
            raise ProgramFailedError(f"{self._library.kind.name} shows no effect")
        telling.quote(effect)
        upper = Path(self.data.volume(VolumeId(self.kubelet.volume_id(POD))).upper)
        written = upper / "agent/log/shop.log"
        if not written.exists() or any(self.data.agents.glob("*/agent/log/shop.log")):
            raise ProgramFailedError("what the application wrote is not in its own upper layer, or in the shared one")
        telling.step("what it wrote is in its own upper layer, and not in the shared version:")
        telling.quote([f"{self._short(str(written))}: {written.read_text().strip()}"])

    def _contained(self, script: str) -> str:
        """What a shell script says in a container with the pod's volume."""
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        done = subprocess.run(
            [
                *("unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.demo.container"),
                *(f"--root={root}", f"--volume={self.kubelet.target(POD)}", "--", "sh", "-c", script),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise ProgramFailedError(f"the container ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _second_pod(self) -> None:
        waited = self._timed_publish("cart")
        telling.step(f"a second pod, 'cart': its volume is there after {waited * 1000:.1f} ms, from the same files")
        answer = self.kubelet.stats(POD)
        used = next(usage.used for usage in answer.usage if usage.unit == 1)
        condition = answer.volume_condition.message
        telling.step(f"kubelet asks for the volume's statistics: {used} bytes written by {POD!r}; {condition}")

    def show_status(self, expected: int) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "oneagent.csi_driver.cli.main", "status", f"--data-dir={self.data.root}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        telling.quote(done.stdout or done.stderr)
        if done.returncode != expected:
            raise ProgramFailedError(f"oneagent-csi status ended with {done.returncode}, not with {expected}")

    # ---------------------------------------------------------------------- end

    def end(self) -> None:
        telling.chapter("The pods go")
        published = {self.kubelet.volume_id(pod): str(self.kubelet.target(pod)) for pod in (POD, "cart")}
        # Somebody may have tried some more.
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
        codes = self.programs.end()
        if any(codes.values()):
            raise ProgramFailedError(f"exit codes after SIGTERM: {codes}")
        telling.step("SIGTERM: all five processes have ended, each with exit code 0")

    def _short(self, text: str) -> str:
        return text.replace(f"{self.folder}/", "")
