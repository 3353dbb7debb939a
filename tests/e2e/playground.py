"""`python -m tests.e2e.playground`, in a sandbox: a cluster with driver, operator and webhook, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NoReturn

from tests.cluster import images, tcp_forward
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import BIN
from tests.cluster.kubectl import Kubectl, Manifest
from tests.cluster.node import Node
from tests.e2e import installation, manifests
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages, tenant

_PATIENCE_SECONDS: Final = 60
_TOLD: Final = """
A cluster of one node is up, with driver, operator and webhook, and a DynaKube `demo` whose tenant is a double. It
monitors namespaces with the label agent=demo:

  export KUBECONFIG={kubeconfig} PATH={folder}:{programs}:$PATH
  kubectl create namespace shop && kubectl label namespace shop agent=demo
  kubectl apply -f {pod} && kubectl -n shop wait --for=condition=Ready pod/cart
  kubectl -n shop exec cart -- cat /proc/1/maps | grep liboneagentproc
  kubectl oneagent why cart -n shop
  kubectl oneagent status

The node is entered with:  nsenter --target {pid} --mount --net --pid=/proc/{pid}/ns/pid_for_children
Logs are below {folder}. Ctrl-C ends it, and leaves nothing behind.
"""


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    cluster = Cluster()
    try:
        with tempfile.TemporaryDirectory() as folder, tenant.Tenant(host=Node.address) as serving:
            cluster.start(*images.built().values())
            installation.Installed(cluster).install()
            installation.operator_and_webhook(cluster.kubectl)
            serving.release(packages.VERSION, packages.build(Path(folder) / "agent.zip", library=packages.loadable()))
            kube, secret = manifests.dynakube("demo", serving.api_url, packages.VERSION)
            kube["spec"]["oneAgent"]["applicationMonitoring"]["namespaceSelector"] = {"matchLabels": {"agent": "demo"}}
            _apply(cluster.kubectl, secret, kube)
            _tell(cluster)
            signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        cluster.stop()


def _apply(kubectl: Kubectl, secret: Manifest, kube: Manifest) -> None:
    """A DynaKube is refused until the API server trusts the webhook, and then it has to be ready."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not installation.trusted(kubectl):
        assert time.monotonic() < deadline, f"the API server does not trust the webhook after {_PATIENCE_SECONDS} s"
        time.sleep(0.2)
    kubectl.apply(secret, kube)
    ready = ("wait", "--for=condition=Ready", "dynakube/demo", f"--timeout={_PATIENCE_SECONDS}s")
    kubectl("-n", NAMESPACE, *ready, timeout=_PATIENCE_SECONDS + 10)


def _tell(cluster: Cluster) -> None:
    folder = cluster.folder
    kubeconfig = folder / "kubeconfig"
    inside = cluster.control_plane.admin.read_text()
    kubeconfig.write_text(inside.replace(cluster.control_plane.url, f"https://127.0.0.1:{tcp_forward.open_door()}"))
    program = folder / "kubectl-oneagent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m oneagent.operator.cli.main "$@"\n')
    program.chmod(0o755)
    pod = folder / "pod.yaml"
    pod.write_text(manifests.as_yaml(manifests.application("cart", "shop")))
    pid = (folder / "pid").read_text()
    text = _TOLD.format(kubeconfig=kubeconfig, programs=BIN, pod=pod, pid=pid, folder=folder)
    print(text, flush=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
