"""The main job, told step by step: from an empty node to an application with its agent, and back.

Every step is done by the real programs over their real interfaces. Played are only those who can't be here:
the tenant by the double that the tests use, and kubelet by a client that makes kubelet's calls.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc

from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version, agent_version
from oneagent.common.injection import volume_attributes
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata import readonly
from tests.demo import container, telling
from tests.demo.demo_node import DemoNode
from tests.demo.library import Library
from tests.demo.programs import ProgramFailedError, Programs
from tests.fakes import packages, tenant

VERSION: Final = Version(packages.VERSION)
POD: Final = "shop"
_ATTRIBUTES: Final[dict[str, Any]] = {
    volume_attributes.CONTAINERS: POD,
    f"{volume_attributes.IMAGE}{POD}": "registry.example.com/shop:1",
    volume_attributes.BASE_POD_NAME: "shop-7d4b9",
    volume_attributes.WORKLOAD_KIND: "Deployment",
    volume_attributes.WORKLOAD_NAME: "shop",
    volume_attributes.CLUSTER_ID: "c0ffee",
    volume_attributes.ENRICHMENT: "true",
}
"""The attributes by the webhook about the pod, besides mode and DynaKube."""
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
echo "{oneagent.CONTAINER_CONF_PATH}, the container's own:"
cat {oneagent.CONTAINER_CONF_PATH}
echo
echo "{oneagent.ENRICHMENT_PATH}/dt_metadata.properties, for what sends data by itself:"
cat {oneagent.ENRICHMENT_PATH}/dt_metadata.properties
echo
echo "{container.AGENT}/agent/conf/ruxitagentproc.conf, merged for this DynaKube (without its token):"
grep -v tenantToken {container.AGENT}/agent/conf/ruxitagentproc.conf
echo "written by the application" > {container.AGENT}/agent/log/shop.log
"""


class Story(DemoNode):
    """One run below one folder; call `beginning`, `middle` and `end` in this order."""

    def __init__(self, folder: Path, programs: Programs, library: Library) -> None:
        super().__init__(folder, programs)
        self._packages = folder / "packages"
        self._packages.mkdir()
        self._library = library
        self._api_url = ""

    # ---------------------------------------------------------------- beginning

    def beginning(self) -> None:
        telling.chapter("The node starts")
        rate = int(self._build_package() / _DOWNLOAD_SECONDS)
        self._start_tenant(rate)
        self.start_driver()
        self.register()

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
        self.show("status", expected=0)

    def _refused(self) -> None:
        started = time.monotonic()
        try:
            self.kubelet.publish(POD, timeout=_ATTEMPT_SECONDS, **_ATTRIBUTES)
        except grpc.RpcError as error:
            took = time.monotonic() - started
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            telling.step(f"kubelet asks for the volume of pod {POD!r}; the driver waits {took:.1f} s and answers")
            telling.quote(f"{error.code().name}: {error.details()}")
            telling.step(f"oneagent-csi why default/{POD} says the same, and what to do:")
            self.show("why", f"default/{POD}", expected=1)
            return
        raise ProgramFailedError("a volume was published although no DynaKube is known")

    def _wait_for_version(self) -> None:
        text = _DYNAKUBE.format(api_url=self._api_url)
        calls = concurrent.futures.ThreadPoolExecutor(1)
        publishing = calls.submit(self._timed_publish, POD)
        calls.shutdown(wait=False)
        telling.step("kubelet tries again, and this call waits for as long as it takes")
        (self.dynakubes / "demo.yaml").write_text(text + _SECRET.format(token=tenant.TOKEN))
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
            telling.quote([f"{mount.fs_type} on {self.short(mount.target)}"])
            telling.quote(f"  {self.short(option)}" for option in mount.super_options if option.split("=")[0] in layers)

    def _timed_publish(self, pod: str) -> float:
        started = time.monotonic()
        self.kubelet.publish(pod, **_ATTRIBUTES)
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
        telling.step(f"while such a process runs, oneagent-csi why default/{POD}:")
        with self._running_application():
            self.show("why", f"default/{POD}", expected=0)
        upper = Path(self.data.volume(VolumeId(self.kubelet.volume_id(POD))).upper)
        written = upper / "agent/log/shop.log"
        if not written.exists() or any(self.data.agents.glob("*/agent/log/shop.log")):
            raise ProgramFailedError("what the application wrote is not in its own upper layer, or in the shared one")
        telling.step("what it wrote is in its own upper layer, and not in the shared version:")
        telling.quote([f"{self.short(str(written))}: {written.read_text().strip()}"])

    def _contained(self, script: str) -> str:
        """What a shell script says in a container with the pod's volume."""
        command = self._in_container(script)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise ProgramFailedError(f"the container ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @contextlib.contextmanager
    def _running_application(self) -> Iterator[None]:
        """Keep a shell running in a container with the pod's volume."""
        command = self._in_container("echo ready; read line")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                if process.stdout.readline() != b"ready\n":
                    raise ProgramFailedError(f"the container ended with {process.wait(10)}")
                yield
            finally:
                process.kill()

    def _in_container(self, script: str) -> list[str]:
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        return [
            *("unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.demo.container"),
            *(f"--root={root}", f"--volume={self.kubelet.target(POD)}", f"--name={POD}"),
            *("--", "sh", "-c", script),
        ]

    def _second_pod(self) -> None:
        waited = self._timed_publish("cart")
        telling.step(f"a second pod, 'cart': its volume is there after {waited * 1000:.1f} ms, from the same files")
        answer = self.kubelet.stats(POD)
        used = next(usage.used for usage in answer.usage if usage.unit == 1)
        condition = answer.volume_condition.message
        telling.step(f"kubelet asks for the volume's statistics: {used} bytes written by {POD!r}; {condition}")

    # ---------------------------------------------------------------------- end

    def end(self) -> None:
        self.put_away(POD, "cart")
