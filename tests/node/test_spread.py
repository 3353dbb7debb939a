"""A download that waits for its turn, because all nodes learn of a version at once."""

from __future__ import annotations

from pathlib import Path

from oneagent.common.injection.contract import PRELOAD_LIBRARY
from oneagent.csi_driver.store import demand
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import manifest

_SPREAD = "--download-jitter=10000h"


def test_a_version_that_nobody_waits_for_is_not_downloaded_before_its_time_and_at_once_for_a_pod(
    tmp_path: Path,
) -> None:
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    with double.Tenant() as server, provisioner.running(tmp_path, _SPREAD) as process:
        server.release(packages.VERSION, packages.build(tmp_path / "agent.zip"))
        process.set_dynakubes(manifest("demo", server.api_url))
        provisioner.eventually(lambda: process.row().get("version"), what="the version is wanted")
        pending = f"version {packages.VERSION} is not in the store yet (pending)"
        provisioner.eventually(lambda: process.row()["condition"] == pending, what="the version is pending")
        process.await_collection()
        assert server.count("package") == 0
        assert process.row()["condition"] == pending
        try:
            kubelet = driver.start()
            assert (kubelet.publish("pod1") / PRELOAD_LIBRARY).exists()
        finally:
            driver.kill()
            node.unmount_all(driver)
        assert server.count("package") == 1
        provisioner.eventually(lambda: not demand.list_versions(process.data), what="the word is forgotten")
