"""Provisioner and server together, as on a node: real processes, a real tenant, real mounts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.injection import inert_library
from tests.fakes import node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.kube_api import KubeApi
from tests.fakes.provisioner import OTHER, Process, eventually, manifest

VERSION = packages.VERSION
CONFIG = "agent/conf/ruxitagentproc.conf"
LIBRARY = "agent/lib64/liboneagentproc.so"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip", prefix=packages.NESTED))
        yield server


@pytest.fixture(params=["10s"])
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[node.Driver]:
    driver = node.Driver(tmp_path, f"--publish-wait={request.param}")
    try:
        yield driver
    finally:
        driver.kill()
        node.unmount_all(driver)


def prop(key: str, value: str) -> dict[str, str]:
    return {"section": "general", "key": key, "value": value}


class TestAPublish:
    def test_that_waits_sees_the_tenants_configuration_at_once(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        server.properties = [prop("fromTenant", "yes")]
        server.bytes_per_second = 5_000
        kubelet = driver.start()
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(manifest("demo", server.api_url))
            waiting = [kubelet.begin(f"pod{number}") for number in range(5)]
            for call in waiting:
                call.result(15)
            for number in range(5):
                view = kubelet.target(f"pod{number}")
                assert "fromTenant yes" in (view / CONFIG).read_text()
                assert (view / LIBRARY).read_bytes().startswith(b"\x7fELF")
                assert (view / "agent/bin/current").is_dir()
            assert server.count("package") == 1
            assert process.stop() == 0

    def test_works_while_tenant_and_provisioner_are_down(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        server.properties = [prop("fromTenant", "yes")]
        kubelet = driver.start()
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(manifest("demo", server.api_url))
            view = kubelet.publish("pod1")
            server.plan("connection", *[double.Fault(status=503)] * 50)
            process.kill()
            kubelet.publish("pod2")
            process.start()
            eventually(lambda: server.count("connection") > 1)
            process.await_collection()
            process.await_ready(VERSION)
            for pod in ("pod1", "pod2", "pod3"):
                assert "fromTenant yes" in (kubelet.publish(pod) / CONFIG).read_text()
            assert (view / LIBRARY).exists()


class TestANewRevision:
    def test_reaches_new_pods_and_leaves_the_old_ones_alone(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        kubelet = driver.start()
        layers = driver.data.config_layers / double.TENANT
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(manifest("demo", server.api_url, annotations={"poll-interval": "100ms"}))
            old = kubelet.publish("old")
            before = (old / CONFIG).read_text()
            first = process.row()["layer"]
            server.properties, server.revision = [prop("fresh", "yes")], 2
            eventually(lambda: process.row()["layer"] != first)
            new = kubelet.publish("new")
            assert "fresh yes" in (new / CONFIG).read_text()
            process.await_collection()
            assert (old / CONFIG).read_text() == before
            assert len(list(layers.iterdir())) == 2
            kubelet.unpublish("old")
            eventually(lambda: [layer.name for layer in layers.iterdir()] == [process.row()["layer"]])
            assert "fresh yes" in (new / CONFIG).read_text()


class TestANewVersion:
    def test_is_for_new_pods_and_the_old_one_goes_with_its_last_pod(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
        kubelet = driver.start()
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
            old = kubelet.publish("old")
            process.set_dynakubes(manifest("demo", server.api_url, version=OTHER))
            process.await_ready(OTHER)
            new = kubelet.publish("new")
            assert (new / "agent/installer.version").read_text() == OTHER
            process.await_collection()
            assert (old / "agent/installer.version").read_text() == VERSION
            assert process.versions() == [VERSION, OTHER]
            kubelet.unpublish("old")
            eventually(lambda: process.versions() == [OTHER])
            eventually(lambda: process.states() == {OTHER: "ready"})
            assert provisioner.list_corrupt(process.data) == []

    def test_of_a_deleted_dynakube_is_removed_with_its_unused_host_directory(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        kubelet = driver.start()
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(manifest("demo", server.api_url))
            process.await_ready(VERSION)
            host = kubelet.publish("agent", mode="host")
            (host / "state").write_text("kept")
            process.set_dynakubes()
            eventually(lambda: process.versions() == [])
            process.await_collection()
            assert (host / "state").read_text() == "kept"
            kubelet.unpublish("agent")
            eventually(lambda: not list(process.data.host_agents.iterdir()))


def eventually_counted(api: KubeApi) -> list[dict[str, Any]]:
    """The Events by which the webhook counts pods without an agent."""

    def counted() -> list[dict[str, Any]]:
        return [event for event in api.objects("events") if event["reason"] == "PodWithoutAgent"]

    eventually(counted)
    return counted()


class TestTheCluster:
    @pytest.mark.parametrize("driver", ["300ms"], indirect=True)
    def test_gets_an_event_for_a_pod_without_its_agent(
        self, tmp_path: Path, driver: node.Driver, server: double.Tenant
    ) -> None:
        server.plan("package", *[double.Fault(status=404)] * 50)
        kubelet = driver.start()
        with KubeApi() as api:
            annotations = {"max-csi-mount-timeout": "1s"}
            api.put("dynakubes", manifest("demo", server.api_url, version=VERSION, annotations=annotations))
            data = {"apiToken": "ZHQwYzAxLkRPVUJMRS5TRUNSRVQ="}
            api.put("secrets", {"metadata": {"name": "demo"}, "data": data})
            flags = (
                "--dynakube-source=kubernetes",
                f"--kubeconfig={api.kubeconfig(tmp_path / 'kubeconfig')}",
                "--node-id=node1",
                "--operator-wait=0",
            )
            with provisioner.running(tmp_path, *flags) as process:
                eventually(lambda: process.row().get("mount_timeout_seconds") == 1.0)
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    call = kubelet.begin("pod1", timeout=15)
                    if call.exception() is None:
                        break
                assert inert_library.is_inert(str(kubelet.target("pod1") / PRELOAD_LIBRARY))

                def find_events() -> list[dict[str, object]]:
                    return [event for event in api.objects("events") if event["reason"] == "AgentNotMounted"]

                eventually(find_events)
                (event,) = find_events()
                assert event["involvedObject"] == {
                    "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "pod1", "uid": "uid-pod1",
                }  # fmt: skip
                assert "answered 404" in str(event["message"])
                counted = eventually_counted(api)
                assert [(one["metadata"]["namespace"], one["involvedObject"]["name"]) for one in counted] == [
                    ("dynatrace", "demo")
                ]
                assert counted[0]["related"] == event["involvedObject"]
                process.stop()


class TestAFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        place = tmp_path / "small"
        (place / "data").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place / "data"], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place / "data"], check=True)

    def test_reports_missing_bytes_and_installs_once_they_are_free(
        self, tmp_path: Path, small: Path, server: double.Tenant
    ) -> None:
        server.release(OTHER, packages.build(tmp_path / "large.zip", OTHER, filler=4 << 20))
        ballast = small / "data/ballast"
        ballast.write_bytes(b"x" * (5 << 20))
        with provisioner.running(small) as process:
            process.set_dynakubes(manifest("demo", server.api_url))
            eventually(lambda: "are needed and" in process.row().get("condition", ""), what=process.row)
            assert "every version in the store is in use or desired" in process.row()["condition"]
            assert process.versions() == []
            assert not list(process.data.tmp.glob("*.tree"))
            ballast.unlink()
            process.await_ready(OTHER)
            assert server.count("package") == 1
            assert list(process.data.tmp.iterdir()) == []
        assert provisioner.list_corrupt(Process(small).data) == []

    def test_filled_by_other_writers_leaves_no_partial_version(
        self, tmp_path: Path, small: Path, server: double.Tenant
    ) -> None:
        server.release(OTHER, packages.build(tmp_path / "large.zip", OTHER, filler=3 << 20))
        server.plan("package", double.Fault(bytes_per_second=3_000_000))
        with provisioner.running(small) as process:
            process.set_dynakubes(manifest("demo", server.api_url))
            eventually(lambda: server.count("package"))
            fill(small / "data/ballast")
            eventually(
                lambda: "can't be installed" in process.row().get("condition", "") or "full" in process.log.read_text()
            )
            assert process.versions() == []
            assert sum(file.stat().st_size for file in process.data.tmp.iterdir() if file.is_file()) == 0
            (small / "data/ballast").unlink()
            process.await_ready(OTHER, seconds=20)
        assert provisioner.list_corrupt(Process(small).data) == []

    def test_frees_space_of_unused_versions(self, tmp_path: Path, small: Path, server: double.Tenant) -> None:
        server.release(VERSION, packages.build(tmp_path / "a.zip", filler=2 << 20))
        server.release(OTHER, packages.build(tmp_path / "b.zip", OTHER, filler=4 << 20))
        with provisioner.running(small, "--gc-keep-unused=1h", "--gc-interval=1h") as process:
            process.set_dynakubes(manifest("demo", server.api_url, version=VERSION))
            process.await_ready(VERSION)
            (small / "data/ballast").write_bytes(b"x" * (5 << 19))
            process.set_dynakubes(manifest("demo", server.api_url, version=OTHER))
            process.await_ready(OTHER)
            assert process.versions() == [OTHER]


def fill(ballast: Path) -> None:
    """Fill a disk."""
    with ballast.open("wb", buffering=0) as file:
        for block in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * block)
            except OSError:
                continue
