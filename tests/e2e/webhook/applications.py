"""Applications in a namespace that is monitored, and what of the agent their processes have."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.injection import contract, inert_library
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Manifest
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor

LIBRARY: Final = f"{oneagent.INSTALL_PATH}/{PRELOAD_LIBRARY}"

Pod = Mapping[str, Any]


class Applications:
    def __init__(self, cluster: Cluster, namespace: str, wait_for: WaitFor) -> None:
        self._cluster, self.namespace, self._wait_for = cluster, namespace, wait_for

    def kubectl(self, *arguments: str) -> str:
        return self._cluster.kubectl("-n", self.namespace, *arguments)

    def create(self, *objects: Manifest) -> None:
        self._cluster.kubectl.apply(*objects)

    def started(self, manifest: Manifest, within: float = 60) -> Pod:
        """Create a pod, and wait until all its containers are ready."""
        self.create(manifest)
        return self.running(f"metadata.name={manifest['metadata']['name']}", within=within)

    def running(self, fields: str = "", labels: str = "", within: float = 60) -> Pod:
        """The pod that these select, once it is ready."""

        def ready() -> Pod:
            return next((pod for pod in self.pods(fields, labels) if is_ready(pod)), {})

        return self._wait_for(ready, f"pod {fields}{labels} is ready", within, 0.2)

    def are_injected(self) -> bool:
        """Return True if a pod created now would have its agent.

        The webhook's Service leads to its pods some time after they are ready, and the API server follows a changed
        configuration of webhooks as late; until then pods are admitted as they are.
        """
        pod = manifests.as_yaml(manifests.application("dry-run", self.namespace))
        stored = self._cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=pod)
        return not untouched(json.loads(stored))

    def restarted(self, pod: Pod, container: str = "shop") -> Pod:
        """End the first process of a container; return the pod once kubelet has started the container again."""
        name = pod["metadata"]["name"]
        os.kill(self._cluster.node.first_process(pod, container), signal.SIGKILL)

        def restarts(pod: Pod) -> int:
            return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])

        def back() -> Pod:
            (now,) = self.pods(f"metadata.name={name}")
            return now if restarts(now) > restarts(pod) and is_ready(now) else {}

        return self._wait_for(back, f"the container {container} of the pod {name} is back", 60, 0.2)

    def pods(self, fields: str = "", labels: str = "") -> list[Pod]:
        flags = (f"--field-selector={fields}", f"--selector={labels}")
        found: list[Pod] = self._cluster.kubectl.json("-n", self.namespace, "get", "pods", *flags)["items"]
        return found

    def maps(self, pod: Pod, container: str = "shop") -> str:
        """What the first process of a container has mapped."""
        return Path(f"/proc/{self._cluster.node.first_process(pod, container)}/maps").read_text()

    def monitored(self, pod: Pod, container: str = "shop") -> bool:
        """Return True if the first process of a container has mapped the agent's library, not the inert one."""
        process = f"/proc/{self._cluster.node.first_process(pod, container)}"
        is_mapped = LIBRARY in Path(f"{process}/maps").read_text()
        return is_mapped and not inert_library.is_inert(f"{process}/root{LIBRARY}")

    def is_quiet(self, pod: Pod, container: str = "shop") -> bool:
        """Return True if the container's log has no error of the loader about `LD_PRELOAD`."""
        return "preloaded" not in self.kubectl("logs", pod["metadata"]["name"], "-c", container)

    def read(self, pod: Pod, path: str, container: str = "shop") -> str:
        return self.kubectl("exec", pod["metadata"]["name"], "-c", container, "--", "cat", path)

    def enrichment(self, pod: Pod, container: str = "shop") -> dict[str, str]:
        found: dict[str, str] = json.loads(self.read(pod, f"{oneagent.ENRICHMENT_PATH}/dt_metadata.json", container))
        return found

    def events(self, reason: str) -> str:
        return self.kubectl("get", "events", f"--field-selector=reason={reason}", "-o", "jsonpath={.items[*].message}")


def is_ready(pod: Pod) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    return bool(statuses) and all(status["ready"] for status in statuses)


def init_containers(pod: Pod) -> list[str]:
    return [container["name"] for container in pod["spec"].get("initContainers", ())]


def untouched(pod: Pod) -> bool:
    """Whether a pod has nothing of ours but annotations that say why."""
    volumes = [volume["name"] for volume in pod["spec"].get("volumes", ())]
    environment = [variable["name"] for container in pod["spec"]["containers"] for variable in container.get("env", ())]
    return (
        contract.INIT_CONTAINER not in init_containers(pod)
        and contract.BIN_VOLUME not in volumes
        and "LD_PRELOAD" not in environment
    )
