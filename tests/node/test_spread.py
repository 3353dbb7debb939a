"""A download that waits for its turn, because all nodes learn of a version at once."""

from __future__ import annotations

from pathlib import Path

import grpc

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.csi_driver.store import demand
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import manifest
from tests.node.answers import refused

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


def test_a_dynakube_whose_version_is_not_known_is_marked_while_a_pod_waits_for_it(tmp_path: Path) -> None:
    driver = node.Driver(tmp_path, "--publish-wait=1s")
    with double.Tenant() as server, provisioner.running(tmp_path) as process:
        server.release(packages.VERSION, packages.build(tmp_path / "agent.zip"))
        server.plan("latest", *[double.Fault(status=429)] * 1000)
        process.set_dynakubes(manifest("demo", server.api_url, annotations={"poll-interval": "200ms"}))
        provisioner.eventually(lambda: "429" in str(process.row().get("condition")), what=process.row)
        try:
            kubelet = driver.start()
            with refused(grpc.StatusCode.UNAVAILABLE, "429"):
                kubelet.publish("pod1")
            assert demand.list_versions(process.data) == {"dynakube_demo"}
            server.mend("latest")
            provisioner.eventually(lambda: packages.VERSION in process.versions(), what=process.log.read_text)
            assert (kubelet.publish("pod1") / PRELOAD_LIBRARY).exists()
            provisioner.eventually(lambda: not demand.list_versions(process.data), what="the word is forgotten")
        finally:
            driver.kill()
            node.unmount_all(driver)
