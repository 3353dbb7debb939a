"""Report of a failed test: pods, Events, and the ends of the logs."""

from __future__ import annotations

import subprocess
from typing import Final

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import KubectlError
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE

_FAILED_OPEN: Final = "failing open"
"""The API server's log line about a webhook's call that failed under `failurePolicy: Ignore`."""
_DEPLOYED: Final = "app.kubernetes.io/component in (operator, webhook)"
_ENDED: Final = (
    "jsonpath={range .items[*]}{.metadata.name}: {.status.initContainerStatuses[*].state.terminated.message}{'\n'}{end}"
)


def sections(cluster: Cluster) -> list[tuple[str, str]]:
    """Titles and texts; what cannot be had says why."""
    kubectl = cluster.kubectl

    def ask(*arguments: str) -> str:
        try:
            return kubectl(*arguments)
        except (KubectlError, subprocess.TimeoutExpired) as error:
            return str(error)

    try:
        driver = Installed(cluster).logs()
    except (KubectlError, subprocess.TimeoutExpired) as error:
        driver = str(error)
    mounts = "\n".join(f"{mount.target}  {mount.fs_type}" for mount in cluster.node.mounts())
    log = cluster.control_plane.apiserver.log.read_text(errors="replace").splitlines()
    failed_open = [line for line in log if _FAILED_OPEN in line]
    ended = [program.name for program in cluster.programs() if not program.running]
    return [
        ("pods", ask("get", "pods", "--all-namespaces", "-o", "wide")),
        ("events", ask("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")[-6000:]),
        ("dynakubes", ask("get", "dynakubes", "--all-namespaces", "-o", "yaml")[-4000:]),
        ("driver", driver),
        ("operator and webhook", ask("-n", NAMESPACE, "logs", "-l", _DEPLOYED, "--prefix", "--tail=30")[-8000:]),
        ("what init containers ended with", ask("get", "pods", "--all-namespaces", "-o", _ENDED)),
        ("webhooks whose calls failed open", "\n".join(failed_open[-20:]) or "none"),
        ("kubelet", cluster.node.kubelet.last_lines(40)),
        ("mounts below kubelet's folder", mounts),
        ("programs that have ended", ", ".join(ended) or "none"),
    ]
