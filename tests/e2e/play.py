"""`python -m tests.e2e.play`, in a sandbox: a cluster with the driver installed, until Ctrl-C."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Final, NoReturn

from tests.cluster import door, images
from tests.cluster.cluster import Cluster
from tests.cluster.controlplane import BIN
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.installed import Installed
from tests.fakes import packages, tenant

_TOLD: Final = """
A cluster of one node is up, with the driver and a DynaKube `demo` whose tenant is a double.

  export KUBECONFIG={kubeconfig}
  {kubectl} get pods --all-namespaces
  {kubectl} apply -f {pod}

Its node is entered with:  nsenter --target {pid} --mount --net --pid=/proc/{pid}/ns/pid_for_children
Logs are below {folder}. Ctrl-C ends it, and leaves nothing behind.
"""


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    cluster = Cluster()
    try:
        with tempfile.TemporaryDirectory() as folder, tenant.Tenant(host=Node.address) as serving:
            cluster.start(*images.built().values())
            Installed(cluster).install()
            serving.release(packages.VERSION, packages.build(Path(folder) / "agent.zip", library=packages.loadable()))
            cluster.kubectl.apply(*manifests.dynakube("demo", serving.api_url, packages.VERSION))
            _tell(cluster)
            signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        cluster.stop()


def _tell(cluster: Cluster) -> None:
    folder = cluster.folder
    kubeconfig = folder / "kubeconfig"
    inside = cluster.control_plane.admin.read_text()
    kubeconfig.write_text(inside.replace(cluster.control_plane.url, f"https://127.0.0.1:{door.open_door()}"))
    pod = folder / "pod.yaml"
    pod.write_text(manifests.as_yaml(manifests.pod("shop", "default", "demo")))
    pid = (folder / "pid").read_text()
    text = _TOLD.format(kubeconfig=kubeconfig, kubectl=BIN / "kubectl", pod=pod, pid=pid, folder=folder)
    print(text, flush=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
