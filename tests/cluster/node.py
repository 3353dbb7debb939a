"""The one node: containerd, kubelet and kube-proxy, and what can happen to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import yaml

from oneagent.csi_driver.linux import mount_table
from tests.cluster import cgroups
from tests.cluster.control_plane import BIN, PODS, SERVER, ControlPlane
from tests.cluster.processes import Program
from tests.cluster.sandbox_init import NODE, NODE_ADDRESS

KUBELET: Final = Path("/var/lib/kubelet")
CONTAINERD: Final = Path("/run/containerd/containerd.sock")
PAUSE_IMAGE: Final = "localhost/pause:e2e"

_CNI: Final = Path("/usr/lib/cni")

_CONTAINERD: Final = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""

_NETWORK: Final = """\
{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{pods}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"""


class Node:
    """Its programs as attributes. Whatever is asked of it is answered by the kernel, not by them."""

    name = NODE
    address = NODE_ADDRESS

    def __init__(self, folder: Path, control_plane: ControlPlane, group: str) -> None:
        folder.mkdir()
        self._folder, self._group = folder, group
        self.containerd = self._containerd()
        self.kubelet = self._kubelet(control_plane)
        self.proxy = self._proxy(control_plane)

    def programs(self) -> tuple[Program, ...]:
        return self.containerd, self.kubelet, self.proxy

    def start_containerd(self) -> None:
        self.containerd.start()
        self.containerd.wait_ready()

    def start_kubelet(self) -> None:
        """With kube-proxy beside it, unless that runs already."""
        started = [program for program in (self.kubelet, self.proxy) if not program.running]
        for program in started:
            program.start()
        for program in started:
            program.wait_ready()

    def load_image(self, archive: Path) -> None:
        """Import an image archive for kubelet's use."""
        self.ctr("images", "import", str(archive))

    def ctr(self, *arguments: str) -> str:
        command = ["ctr", f"--address={CONTAINERD}", "--namespace=k8s.io", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def mounts(self) -> list[mount_table.Mount]:
        """What is mounted below kubelet's folder."""
        return mount_table.at_or_below(mount_table.read(), str(KUBELET))

    def processes_of(self, pod: Mapping[str, Any], container: str) -> set[int]:
        """The processes of a pod's running container, by its control group."""
        kinds = ("initContainerStatuses", "containerStatuses")
        statuses = [status for kind in kinds for status in pod["status"].get(kind, ())]
        (status,) = (found for found in statuses if found["name"] == container)
        identity = status["containerID"].removeprefix("containerd://")
        return {process for file in self._groups(identity) for process in cgroups.members(file)}

    def first_process(self, pod: Mapping[str, Any], container: str, *, within_seconds: float = 10) -> int:
        """The first process of a pod's running container, once it waits for something.

        kubelet reports a container as running while its process is still runc's, or loads its libraries.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            process = min(self.processes_of(pod, container))
            name, state = psutil.Process(process).name(), psutil.Process(process).status()
            if state == psutil.STATUS_SLEEPING and not name.startswith("runc"):
                return process
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {process} of the container {container} is {name}, {state}")
            time.sleep(0.05)

    def _groups(self, name: str) -> list[Path]:
        # Unlike `rglob`, this passes over groups that go while it looks.
        walks = (os.walk(hierarchy / self._group) for hierarchy in cgroups.hierarchies())
        return [Path(folder) for walk in walks for folder, _, _ in walk if os.path.basename(folder) == name]

    def power_cut(self) -> None:
        """Everything on the node ends at once and its memory is gone: processes, mounts and /run, not the disk."""
        for program in self.programs():
            program.kill()
        for process in psutil.process_iter(["name"]):
            if str(process.info["name"]).startswith("containerd-shim"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        # With all that is in them. A group that outlived its container would keep kubelet waiting for three seconds.
        cgroups.remove(self._group)
        cgroups.create(self._group)
        for mount in reversed(self.mounts()):
            if mount.target != str(KUBELET):
                subprocess.run(["umount", "--lazy", mount.target], check=True)
        for mount in reversed(mount_table.at_or_below(mount_table.read(), "/run")):
            if mount.target != "/run":
                subprocess.run(["umount", "--lazy", mount.target], check=True)
        for path in Path("/run").iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        subprocess.run(["ip", "link", "delete", "cni0"], check=False)
        shutil.rmtree("/var/lib/cni", ignore_errors=True)

    def _containerd(self) -> Program:
        config, network = self._folder / "containerd.toml", self._folder / "cni"
        network.mkdir()
        (network / "10-pods.conflist").write_text(_NETWORK.format(pods=PODS))
        config.write_text(_CONTAINERD.format(socket=CONTAINERD, pause=PAUSE_IMAGE, cni=_CNI, conf=network))

        return Program("containerd", ["containerd", f"--config={config}"], self._folder / "containerd.log", _serves)

    def _kubelet(self, control_plane: ControlPlane) -> Program:
        user = f"system:node:{NODE}"
        access = control_plane.authority.kubeconfig("kubelet", SERVER, common_name=user, groups=["system:nodes"])
        config = self._folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._kubelet_configuration(control_plane)))
        command: list[str | Path] = [
            BIN / "kubelet",
            f"--config={config}",
            f"--kubeconfig={access}",
            f"--root-dir={KUBELET}",
            f"--node-ip={NODE_ADDRESS}",
            f"--hostname-override={NODE}",
        ]
        healthz = "http://127.0.0.1:10248/healthz"
        return Program("kubelet", command, self._folder / "kubelet.log", lambda: control_plane.healthy(healthz))

    def _kubelet_configuration(self, control_plane: ControlPlane) -> dict[str, Any]:
        resolver = self._folder / "resolv.conf"
        resolver.write_text("")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(control_plane.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # The machine's disk may be nearly full without it being this cluster's fault.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "100Mi", "imagefs.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "protectKernelDefaults": True,
            "resolvConf": str(resolver),
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "volumePluginDir": str(KUBELET / "volume-plugins"),
            # Lowering it needs a capability that root does not have everywhere; containerd is told the same.
            "oomScoreAdj": 0,
            "maxPods": 150,
            # A container that is killed again and again comes back soon enough to be killed again.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        }

    def _proxy(self, control_plane: ControlPlane) -> Program:
        access = control_plane.authority.kubeconfig("proxy", SERVER, common_name="system:kube-proxy")
        config = self._folder / "proxy.yaml"
        # Limits of connection tracking are the whole machine's, and stay as they are.
        conntrack = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(access)},
            "mode": "iptables",
            "clusterCIDR": PODS,
            "hostnameOverride": NODE,
            "conntrack": conntrack,
        }
        config.write_text(yaml.safe_dump(configuration))
        command: list[str | Path] = [BIN / "kube-proxy", f"--config={config}"]
        healthz = "http://127.0.0.1:10256/livez"
        return Program("kube-proxy", command, self._folder / "kube-proxy.log", lambda: control_plane.healthy(healthz))


def _serves() -> bool:
    """Whether containerd answers as kubelet asks it: for a moment it listens, and is not initialized yet."""
    with grpc.insecure_channel(f"unix://{CONTAINERD}") as channel:
        version: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/runtime.v1.RuntimeService/Version")
        try:
            version(b"", timeout=1)
        except grpc.RpcError:
            return False
    return True
