"""What an installation costs the node it is on, by the kernel's own figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psutil

from tests.cluster.cluster import Cluster
from tests.cluster.held_memory import held_mib
from tests.e2e.manifests import NAMESPACE

PARTS: Final = ("csi-driver", "operator", "webhook")
IDLE_SECONDS: Final = 20.0

Record = Callable[[str, object], None]


def record_idle(cluster: Cluster, record: Record) -> None:
    """Of each part all pods together: memory, each page counted once, and processor time."""
    processes = {part: _processes(cluster, part) for part in PARTS}
    before = {part: _cpu_seconds(found) for part, found in processes.items()}
    started = time.monotonic()
    time.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - started
    for part, found in processes.items():
        used = _cpu_seconds(found) - before[part]
        held = held_mib(process.pid for process in found)
        record(f"{part}: MiB of memory of {len(found)} processes, idle", round(held, 1))
        record(f"{part}: seconds of processor time in {seconds:.0f} s, idle", round(used, 2))


def pods(cluster: Cluster, part: str) -> Sequence[Mapping[str, Any]]:
    """Those of a part of the installation that are to stay."""
    selector = f"app.kubernetes.io/component={part}"
    found: list[dict[str, Any]] = cluster.kubectl.json("-n", NAMESPACE, "get", "pods", "-l", selector)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _processes(cluster: Cluster, part: str) -> list[psutil.Process]:
    identities = {
        identity
        for pod in pods(cluster, part)
        for container in pod["spec"]["containers"]
        for identity in cluster.node.processes_of(pod, container["name"])
    }
    return [psutil.Process(identity) for identity in sorted(identities)]


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(used.user + used.system for used in times)
