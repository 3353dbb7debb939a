"""A new version is for new pods; the old one stays as long as a pod has it, and no longer."""

from __future__ import annotations

from typing import Any

from oneagent.common.identifiers import agent_version
from oneagent.csi_driver.linux import mount_table
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, Release, Running, WaitFor
from tests.e2e.installation import Installed
from tests.fakes.tenant import Tenant


def test_running_pods_keep_their_version_and_the_last_of_them_takes_it_along(
    driver: Installed,
    node: Node,
    kubectl: Kubectl,
    dynatrace: Tenant,
    apply: Apply,
    running: Running,
    release: Release,
    namespace: str,
    wait_for: WaitFor,
) -> None:
    old, new = release(), release()
    apply(*manifests.with_access(*manifests.dynakube(namespace, dynatrace.api_url, old)))
    apply(manifests.pod("first", namespace, namespace))
    first = running(namespace, "first")

    apply(*manifests.with_access(*manifests.dynakube(namespace, dynatrace.api_url, new)))
    wait_for(lambda: new in driver.versions(), "the new version is in the store")
    apply(manifests.pod("second", namespace, namespace))
    second = running(namespace, "second")

    assert _version(driver, first) == old
    assert _version(driver, second) == new
    collected = driver.collections()
    wait_for(lambda: driver.collections() > collected, "the garbage collector runs", within=30, every=1)
    assert old in driver.versions()
    kubectl("-n", namespace, "exec", "first", "--", "ls", f"{manifests.AGENT}/agent/installer.version")

    kubectl("-n", namespace, "delete", "pod", "first")
    wait_for(lambda: old not in driver.versions(), "the old version leaves the store")
    assert new in driver.versions()
    assert _version(driver, second) == new


def _version(driver: Installed, pod: dict[str, Any]) -> str:
    """The version below a pod's view, by the kernel's mount table."""
    uid = pod["metadata"]["uid"]
    (view,) = (view for view in mount_table.overlays(driver.views()) if uid in view.mount.target)
    (version,) = (layer.rpartition("/")[2] for layer in view.lower if "/agents/" in layer)
    return agent_version(version)
