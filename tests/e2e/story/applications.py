"""Applications whose owner knows nothing of the agent, and what can be seen of it in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from oneagent.common.agents import oneagent
from oneagent.common.injection import pod_annotations
from oneagent.csi_driver.linux import mount_table
from tests.cluster.cluster import Cluster
from tests.e2e import manifests
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story.administrator import DYNAKUBE, SHOP
from tests.e2e.webhook import earlier_release
from tests.e2e.webhook.applications import Applications, Pod
from tests.fakes.tenant import TENANT, Tenant


@dataclass(frozen=True, slots=True)
class Running:
    """What stays the same for as long as nobody touches a pod's container or its agent."""

    container: str
    process: int
    mounts: tuple[tuple[int, str], ...]
    """The identity of each mount in the container, and where it is."""


class ShopNamespace:
    def __init__(self, cluster: Cluster, applications: Applications) -> None:
        self._cluster, self._applications = cluster, applications
        self._hosts: list[dict[str, Any]] = []

    def set_operator_address(self) -> None:
        """This cluster has no DNS, so pods are told the one address that they ask for without CSI."""
        service = self._cluster.kubectl.json("-n", NAMESPACE, "get", "service", "oneagent-operator")
        self._hosts = [{"ip": service["spec"]["clusterIP"], "hostnames": [f"oneagent-operator.{NAMESPACE}.svc"]}]

    def starts(self, name: str) -> Pod:
        """A plain pod, as its owner wrote it; ready."""
        self.comes(name)
        return self.ready(name)

    def starts_as_before(self, name: str) -> Pod:
        """A pod that the last release with an init container has injected; ready."""
        pod = manifests.application(name, SHOP)
        self._applications.create(earlier_release.injected(pod, DYNAKUBE))
        return self.ready(name)

    def comes(self, name: str) -> None:
        """The same, whether it gets ready or not."""
        pod = manifests.application(name, SHOP)
        pod["spec"]["hostAliases"] = self._hosts
        self._applications.create(pod)

    def would_be_injected(self) -> bool:
        """Ask the API server for the pod that would be created."""
        pod = yaml.safe_dump(manifests.application("none", SHOP))
        dry_run = ("create", "--dry-run=server", "-o", "yaml", "-f", "-")
        created = self._cluster.kubectl("-n", SHOP, *dry_run, stdin=pod)
        annotations = yaml.safe_load(created)["metadata"].get("annotations") or {}
        return annotations.get(pod_annotations.AGENT_INJECTED) == "true"

    def ready(self, name: str) -> Pod:
        """One that was created already, once it is ready."""
        return self._applications.running(f"metadata.name={name}", within=90)

    def restarted(self, pod: Pod) -> Pod:
        """The same pod, once its container has ended and is there again."""
        return self._applications.restarted(pod)

    def ends(self, *names: str) -> None:
        self._applications.kubectl("delete", "pod", *names)

    def monitored(self, pod: Pod) -> bool:
        return self._applications.monitored(pod)

    def has_agent(self, pod: Pod, version: str) -> None:
        """Mapped into the first process, of this version, and told of the tenant's settings and of the pod."""
        assert self.monitored(pod), pod["metadata"].get("annotations")
        assert self._agents_file(pod, "installer.version") == version
        configuration = self._agents_file(pod, "conf/ruxitagentproc.conf").splitlines()
        assert {f"tenant {TENANT}", "logLevel verbose"} <= set(configuration)
        metadata = pod["metadata"]
        own = {f"k8s_fullpodname {metadata['name']}", f"k8s_poduid {metadata['uid']}", f"k8s_namespace {SHOP}"}
        container = self._applications.read(pod, oneagent.CONTAINER_CONF_PATH)
        assert {*own, "k8s_containername shop", "containerName shop"} <= set(container.splitlines())

    def events(self, reason: str) -> str:
        return self._applications.events(reason)

    def dynakube(self, version: str) -> dict[str, Any]:
        """The one of the documentation, as a reader of a version writes it."""
        found = self._cluster.kubectl.json("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com", DYNAKUBE)
        kept = {key: found["metadata"][key] for key in ("name", "namespace")}
        return {**{key: found[key] for key in ("apiVersion", "kind", "spec")}, "metadata": kept}

    def running(self, pod: Pod) -> Running:
        process = self._cluster.node.first_process(pod, "shop")
        mounts = mount_table.read(Path(f"/proc/{process}/mountinfo"))
        (container,) = pod["status"]["containerStatuses"]
        return Running(container["containerID"], process, tuple((mount.mount_id, mount.target) for mount in mounts))

    def _agents_file(self, pod: Pod, name: str) -> str:
        return self._applications.read(pod, f"{oneagent.INSTALL_PATH}/agent/{name}")


def settle(tenant: Tenant) -> None:
    """The tenant has a setting for all agents."""
    tenant.properties = [{"section": "general", "key": "logLevel", "value": "verbose"}]
