"""A pod with the volume has its agent before its first process starts, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.csi_driver.linux import mount_table
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, Release, Running
from tests.e2e.installation import Installed
from tests.fakes.tenant import Tenant


@pytest.fixture
def dynakube(driver: Installed, apply: Apply, dynatrace: Tenant, release: Release, namespace: str) -> str:
    """A DynaKube of the test's own, with a version of its own."""
    apply(*manifests.with_access(*manifests.dynakube(namespace, dynatrace.api_url, release())))
    return namespace


def test_the_first_process_of_a_container_has_the_library_mapped(
    node: Node, apply: Apply, running: Running, namespace: str, dynakube: str
) -> None:
    apply(manifests.pod("app", namespace, dynakube))
    pod = running(namespace, "app")
    first = node.first_process(pod, "shop")
    assert f"{manifests.AGENT}/{PRELOAD_LIBRARY}" in Path(f"/proc/{first}/maps").read_text()


def test_a_restricted_pod_of_any_user_writes_its_logs_into_its_view(
    kubectl: Kubectl, apply: Apply, running: Running, namespace: str, dynakube: str
) -> None:
    apply(manifests.pod("app", namespace, dynakube, user=12345))
    running(namespace, "app")
    log = f"{manifests.AGENT}/agent/log/shop.log"
    kubectl("-n", namespace, "exec", "app", "--", "sh", "-c", f"id -u > {log}")
    assert kubectl("-n", namespace, "exec", "app", "--", "cat", log) == "12345\n"


def test_what_one_pod_does_to_its_view_reaches_neither_another_pod_nor_the_store(
    driver: Installed, node: Node, kubectl: Kubectl, apply: Apply, running: Running, namespace: str, dynakube: str
) -> None:
    apply(*(manifests.pod(name, namespace, dynakube, user=12345) for name in ("mine", "other")))
    mine, other = running(namespace, "mine"), running(namespace, "other")
    spoil = f"rm -f {manifests.AGENT}/{PRELOAD_LIBRARY}; echo bad > {manifests.AGENT}/agent/log/mine; true"
    kubectl("-n", namespace, "exec", "mine", "--", "sh", "-c", spoil)
    views = [_view_of(node, pod) for pod in (mine, other)]
    assert views[0].upper != views[1].upper
    look = f"ls {manifests.AGENT}/{PRELOAD_LIBRARY} {manifests.AGENT}/agent/log"
    assert "mine" not in kubectl("-n", namespace, "exec", "other", "--", "sh", "-c", look)
    (version,) = {Path(layer).name for view in views for layer in view.lower if "/agents/" in layer}
    assert (driver.data.agents / version / PRELOAD_LIBRARY).exists()
    assert not (driver.data.agents / version / "agent/log/mine").exists()


def test_the_view_carries_the_configuration_of_its_pod(
    kubectl: Kubectl, apply: Apply, running: Running, namespace: str, dynakube: str
) -> None:
    apply(manifests.pod("app", namespace, dynakube))
    running(namespace, "app")
    written = kubectl("-n", namespace, "exec", "app", "--", "cat", f"{manifests.AGENT}/agent/conf/container.conf")
    assert f"k8s_namespace {namespace}" in written.replace("=", " ")


def _view_of(node: Node, pod: dict[str, Any]) -> mount_table.Overlay:
    """The only view that a pod's process has in its mount table."""
    process = node.first_process(pod, "shop")
    views = mount_table.overlays(mount_table.read(Path(f"/proc/{process}/mountinfo")))
    (view,) = (view for view in views if view.mount.target == manifests.AGENT)
    assert not [mount for mount in views if mount.mount.target != manifests.AGENT and "/agents/" in str(mount.lower)]
    return view
