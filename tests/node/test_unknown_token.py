"""A tenant that refuses everything but the package: no pod gets a configuration without the tenant's token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import eventually, manifest
from tests.node.answers import refused

VERSION = packages.VERSION
CONFIG = "agent/conf/ruxitagentproc.conf"
SAID = "agents cannot be configured yet"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip", prefix=packages.NESTED))
        server.plan("connection", *[double.Fault(status=429)] * 1000)
        yield server


def run(driver: node.Driver, *arguments: str) -> str:
    command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", *arguments, f"--data-dir={driver.data.root}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


def test_pods_wait_within_their_limits_and_what_people_see_says_what_the_tenant_answers(
    tmp_path: Path, server: double.Tenant
) -> None:
    driver = node.Driver(tmp_path, "--publish-wait=1s")
    try:
        kubelet = driver.start()
        with provisioner.running(tmp_path) as process:
            annotations = {"poll-interval": "200ms", "max-csi-mount-attempts": "1"}
            kube = manifest("demo", server.api_url, version=VERSION, annotations=annotations)
            process.set_dynakubes(kube)
            eventually(lambda: VERSION in process.versions(), what=process.log.read_text)
            eventually(lambda: SAID in str(process.row().get("condition")), what=process.row)
            assert list(driver.data.config_layers.iterdir()) == []
            with refused(grpc.StatusCode.UNAVAILABLE, SAID):
                kubelet.publish("waits")
            report = run(driver, "why", "default/waits")
            assert SAID in report and "answered 429" in report

            view = kubelet.publish("waits")  # Its attempts are used up.
            assert not (view / CONFIG).exists()
            condition = kubelet.stats("waits").volume_condition
            assert condition.abnormal
            assert SAID in condition.message and "answered 429" in condition.message

            server.mend("connection")
            eventually(lambda: process.row().get("condition") == "", what=process.row)
            kubelet.publish("lucky")
            assert f"tenantToken {server.tenant_token}" in (kubelet.target("lucky") / CONFIG).read_text()
            assert process.stop() == 0
    finally:
        driver.kill()
        node.unmount_all(driver)
