"""Services in Python, Node.js and Java, each a Deployment and a Service, that call one another by name."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from tests.cluster import telemetry_images
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Manifest
from tests.e2e import manifests
from tests.e2e.webhook.applications import Pod

LANGUAGES: Final = {"shop": "python", "cart": "nodejs", "stock": "java"}
"""By service, in the order of their calls"""
CONTAINER: Final = "main"
PORT: Final = 8080


class Services:
    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._addresses: dict[str, str] = {}

    def start(self, others: Mapping[str, str]) -> None:
        """Return once all of them are ready. `others` are names outside of the namespace, with their addresses."""
        self._cluster.kubectl.apply(*map(self._service, LANGUAGES))
        # The cluster has no DNS: pods have the names in their /etc/hosts.
        self._addresses = {name: self._address(name) for name in LANGUAGES} | dict(others)
        following = dict(zip(LANGUAGES, list(LANGUAGES)[1:], strict=False))
        self._cluster.kubectl.apply(*(self._deployment(name, following.get(name)) for name in LANGUAGES))
        self.wait_ready(*LANGUAGES)

    def start_another(self, name: str, language: str) -> None:
        """Return once one more, which asks none, is ready."""
        self._cluster.kubectl.apply(self._deployment(name, None, language))
        self.wait_ready(name)

    def restart(self, *names: str) -> None:
        """Return once new pods have taken the place of the old ones."""
        for name in names:
            self._kubectl("rollout", "restart", f"deployment/{name}")
        self.wait_ready(*names)

    def end(self, *names: str) -> None:
        self._kubectl("delete", "--wait=false", "deployments", *names)

    def end_all(self) -> None:
        """Return once their pods are gone, which need the driver for that."""
        self._kubectl("delete", "deployments", "--all", "--cascade=foreground")

    def wait_ready(self, *names: str) -> None:
        for name in names:
            self._kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=130)

    def answer(self) -> bool:
        """Return True if each of the pods took part in the answer to a request."""
        try:
            with urllib.request.urlopen(f"http://{self._addresses['shop']}:{PORT}/order", timeout=20) as answer:
                parts = answer.read().decode().split()
        except urllib.error.URLError:  # A Service leads to a new pod a moment after it is ready.
            return False
        return bool(parts == self.pod_names())

    def pod_names(self) -> list[str]:
        """In the order of the calls."""
        return [self.pod(name)["metadata"]["name"] for name in LANGUAGES]

    def pod(self, name: str) -> Pod:
        """The one of a service that is not ending."""
        pods = self._cluster.kubectl.json("-n", self._namespace, "get", "pods", f"--selector=app={name}")["items"]
        (found,) = (pod for pod in pods if "deletionTimestamp" not in pod["metadata"])
        pod: Pod = found
        return pod

    def _kubectl(self, *arguments: str, timeout: float = 60) -> str:
        return self._cluster.kubectl("-n", self._namespace, *arguments, timeout=timeout)

    def _address(self, name: str) -> str:
        service = self._cluster.kubectl.json("-n", self._namespace, "get", "service", name)
        return str(service["spec"]["clusterIP"])

    def _service(self, name: str) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {"selector": {"app": name}, "ports": [{"port": PORT}]},
        }

    def _deployment(self, name: str, following: str | None, language: str = "") -> Manifest:
        env = {"HOST": "0.0.0.0", "PORT": str(PORT)}
        if following:
            env["NEXT"] = f"http://{following}:{PORT}/{name}"
        container: dict[str, Any] = {
            **manifests.container(CONTAINER),
            "image": telemetry_images.SERVICES,
            "command": list(telemetry_images.COMMANDS[language or LANGUAGES[name]]),
            "env": [{"name": key, "value": value} for key, value in env.items()],
            # Not by HTTP: each probe would be a trace.
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }
        spec = {
            **manifests.application(name, self._namespace)["spec"],
            "containers": [container],
            "hostAliases": [{"ip": address, "hostnames": [host]} for host, address in self._addresses.items()],
        }
        labels = {"app": name}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
        }
