"""Many pods at once, in one namespace."""

from __future__ import annotations

from typing import Any

from oneagent.csi_driver.linux import mount_table
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed


class PodBatch:
    """Pods `app-0`, `app-1`, … whose DynaKube has the name of the namespace."""

    def __init__(self, driver: Installed, kubectl: Kubectl, namespace: str, wait_for: WaitFor) -> None:
        self._driver, self._kubectl, self.namespace, self._wait_for = driver, kubectl, namespace, wait_for

    def create(self, pods: int | range) -> None:
        """So many pods, or those with these numbers."""
        numbers = range(pods) if isinstance(pods, int) else pods
        made = (manifests.pod(f"app-{number}", self.namespace, self.namespace) for number in numbers)
        self._kubectl.apply(*made)

    def pods(self) -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = self._kubectl.json("-n", self.namespace, "get", "pods")["items"]
        return pods

    def running(self) -> int:
        statuses = [pod["status"].get("containerStatuses", []) for pod in self.pods()]
        return sum(bool(status) and all(container["ready"] for container in status) for status in statuses)

    def wait_running(self, number: int, within: float) -> None:
        self._wait_for(lambda: self.running() == number, f"{number} pods run", within=within, every=1)

    def delete(self, *, wait: bool = True) -> None:
        self._kubectl("-n", self.namespace, "delete", "pods", "--all", f"--wait={str(wait).lower()}", timeout=300)

    def check_views(self) -> None:
        """Every pod has one view, at its place and with a row, and there are none besides."""
        uids = {pod["metadata"]["uid"] for pod in self.pods()}
        views = mount_table.overlays(self._driver.views())
        assert sorted(view.mount.target.split("/pods/")[1].split("/")[0] for view in views) == sorted(uids)
        assert {row["pod_uid"] for row in self._driver.rows()} == uids
        assert len({view.upper for view in views}) == len(uids)

    def wait_nothing_is_left(self) -> None:
        """No mount, no folder, no row of any volume on the node, and nothing in the trash."""
        self._wait_for(lambda: not self._driver.traces(), "no trace of a volume is left", within=60, every=0.5)
        self._wait_for(lambda: not list(self._driver.data.trash.iterdir()), "the trash is emptied")
