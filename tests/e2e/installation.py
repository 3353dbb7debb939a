"""The driver as it is installed on the cluster: from the manifests of `deploy/`, with the image of this checkout."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from oneagent.common.identifiers import DRIVER_NAME, agent_version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import mount_table
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, Manifest
from tests.cluster.node import KUBELET
from tests.e2e.manifests import NAMESPACE

IMAGE: Final = "localhost/oneagent-csi:e2e"
DAEMON_SET: Final = "daemonset/oneagent-csi-driver"
SELECTOR: Final = "app.kubernetes.io/component=csi-driver"
PLUGIN: Final = KUBELET / "plugins" / DRIVER_NAME

_CONDITIONS: Final = "jsonpath={range .status.conditions[*]}{.type}={.status} {end}"
_DEPLOY: Final = Path("deploy")
# Of a flag that is given twice the last one counts. A publish that waits in vain counts as failed after this time
# instead of after a minute. Tests without an operator would wait a minute for one.
_FLAGS: Final = {
    "server": ["--publish-wait=5s"],
    "provisioner": ["--gc-interval=5s", "--download-jitter=0", "--operator-wait=2s"],
    "webhook": [f"--image={IMAGE}", "--image-pull-policy=Never"],
}
# What hangs is ended after 15 s of no answers and 3 s of grace, instead of 30 and 15.
_PROBE: Final = {"periodSeconds": 5, "terminationGracePeriodSeconds": 3}


def manifests(name: str) -> list[Manifest]:
    """A file of `deploy/`; the image's name, and what would make tests wait, is changed in it."""
    found: list[Manifest] = list(yaml.load_all((_DEPLOY / name).read_text(), yaml.CSafeLoader))
    for manifest in found:
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                container["image"] = IMAGE
                container["imagePullPolicy"] = "Never"
                container["args"] += _FLAGS.get(container["name"], [])
                if "livenessProbe" in container:
                    container["livenessProbe"] |= _PROBE
    return found


def define(kubectl: Kubectl) -> None:
    """Make DynaKubes known to the cluster, and the namespace that they are in."""
    text = yaml.safe_dump_all([*manifests("crd.yaml"), *manifests("namespace.yaml")])
    # Helm, which may have had the definition before, leaves it behind as its own.
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    deadline = time.monotonic() + 30
    # `kubectl wait` fails on a definition that is so new that it has no conditions yet.
    while "Established=True" not in kubectl("get", "crd", "dynakubes.dynatrace.com", "-o", _CONDITIONS):
        assert time.monotonic() < deadline, "the CRD is not established after 30 s"
        time.sleep(0.1)


def operator_and_webhook(kubectl: Kubectl) -> list[Manifest]:
    """Install both Deployments of `deploy/`; their objects, once both are ready."""
    objects = [*manifests("operator.yaml"), *manifests("webhook.yaml")]
    kubectl.apply(*objects)
    for name in ("operator", "webhook"):
        kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/oneagent-{name}", "--timeout=60s", timeout=70)
    return objects


def trusted(kubectl: Kubectl) -> bool:
    """Whether the API server knows by what it can tell the webhook."""
    template = "jsonpath={.webhooks[*].clientConfig.caBundle}"
    found = (
        kubectl("get", f"{kind}webhookconfiguration", "oneagent-webhook", "-o", template)
        for kind in ("mutating", "validating")
    )
    return all(found)


class Installed:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.data = DataDir(PLUGIN / "data")

    def install(self) -> None:
        """Returns once the driver is registered."""
        define(self._cluster.kubectl)
        self._cluster.kubectl.apply(*manifests("csi-driver.yaml"))
        self._cluster.kubectl("-n", NAMESPACE, "rollout", "status", DAEMON_SET, "--timeout=60s", timeout=70)

    def uninstall(self, *, wait: bool = True) -> None:
        """As by `kubectl delete -f`: the driver's objects go; namespace and CRD stay."""
        self._cluster.kubectl.delete(*manifests("csi-driver.yaml"), wait=wait)

    def terminating(self) -> bool:
        """Whether the driver's pod is there and was told to end."""
        return bool(self.pods()) and all("deletionTimestamp" in pod["metadata"] for pod in self.pods())

    def pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._cluster.kubectl.json("-n", NAMESPACE, "get", "pods", "-l", SELECTOR)[
            "items"
        ]
        return found

    def registered(self) -> bool:
        """Whether the node's CSINode lists the driver."""
        nodes = self._cluster.kubectl.json("get", "csinodes")["items"]
        drivers = [driver["name"] for node in nodes for driver in node["spec"]["drivers"] or ()]
        return DRIVER_NAME in drivers

    def ready(self) -> bool:
        """Whether every container of the driver's pod is up, by the DaemonSet's status."""
        found = self._cluster.kubectl.json("-n", NAMESPACE, "get", DAEMON_SET)
        status = found["status"]
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        return bool(status.get("numberReady") == status.get("updatedNumberScheduled") == 1)

    def collections(self) -> float:
        """How often the provisioner's garbage collector ran, by its metrics."""
        return self.metric(8090, "oneagent_csi_gc_runs_total", result="ok")

    def metric(self, port: int, name: str, **labels: str) -> float:
        """A metric's value as the driver's pod serves it; 0 if it has none yet."""
        url = f"http://{self.pods()[0]['status']['podIP']}:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = (sample for family in families for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)

    def process(self, command: str) -> psutil.Process:
        """The running process of one of the driver's containers; `LookupError`."""
        for process in psutil.process_iter(["cmdline"]):
            if any(command in word for word in (process.info["cmdline"] or ())[:3]):
                return process
        raise LookupError(f"no process {command} on the node")

    def runs(self, command: str) -> bool:
        try:
            return self.process(command).is_running()
        except LookupError:
            return False

    def views(self) -> list[mount_table.Mount]:
        """What is mounted in the pods' CSI volumes."""
        return [mount for mount in self._cluster.node.mounts() if "kubernetes.io~csi" in mount.target]

    def versions(self) -> set[str]:
        """The versions in the agent store, as their sources name them."""
        found = self.data.agents.iterdir() if self.data.agents.exists() else ()
        return {agent_version(path.name) for path in found}

    def rows(self) -> list[dict[str, Any]]:
        """The volumes that the metadata DB knows."""
        with contextlib.closing(sqlite3.connect(self.data.database, timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM volumes")]

    def traces(self) -> list[str]:
        """Whatever there still is of any pod's volume: mounts, kubelet's folders, the store's, rows."""
        folders = (KUBELET / "pods").glob("*/volumes/kubernetes.io~csi/*")
        return [
            *(f"mount {mount.target}" for mount in self.views()),
            *(f"folder {path}" for path in folders),
            *(f"volume {path}" for path in self.data.volumes.iterdir()),
            *(f"row {row['id']}" for row in self.rows()),
        ]

    def logs(self) -> str:
        return self._cluster.kubectl(
            *("-n", NAMESPACE, "logs", DAEMON_SET, "--all-containers", "--prefix", "--tail=60", "--ignore-errors")
        )
