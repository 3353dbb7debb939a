"""A pod's own files in its volume, mounted into containers by subPath as kubelet does it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from oneagent.common.agents.oneagent import container_conf
from oneagent.common.agents.pod_files import Container
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import contract
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused
from tests.node.test_limits import tmpfs

MISSING = store_key.of_version(Version("9.9.9"), "tests")
LACKING = DynaKubeName("lacking")
ATTRIBUTES: Final[dict[str, Any]] = {
    "containers": "app,side-car",
    "image.app": "registry.example/shop:1",
    "connectRetryMs": "6000",
    "basePodName": "shop",
    "workloadKind": "Deployment",
    "workloadName": "shop",
    "clusterId": "cluster-1",
    "enrichment": "true",
    "attribute.team": "checkout",
}
SUB_PATHS: Final = ("container_app.conf", "container_side-car.conf", "curl_options.conf", "enrichment")
KINDS: Final[dict[str, dict[str, Any]]] = {
    "view": {},
    "read-only view": {"read_only": True},
    "empty view": {"dynakube": LACKING},
    "read-only empty view": {"dynakube": LACKING, "read_only": True},
    "files only": {"mode": "conf"},
    "files only, of a DynaKube that is not known": {"mode": "conf", "dynakube": "stranger"},
}


def set_dynakubes(driver: Driver) -> None:
    lacking: DesiredState = node.demo(name=LACKING, version=MISSING, mount_attempts=0, mount_policy="wait")
    node.want(driver.data, node.demo(), lacking)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver whose processes may create files for their owner only, by its umask."""
    with node.running(tmp_path_factory.mktemp("files"), "--publish-wait=50ms") as (driver, _):
        set_dynakubes(driver)
        driver.kill()
        before = os.umask(0o077)
        try:
            driver.start()
        finally:
            os.umask(before)
        yield driver


@pytest.fixture
def kubelet(driver: Driver) -> Kubelet:
    return Kubelet(driver.socket, driver.target_root)


@contextlib.contextmanager
def container(volume: Path, place: Path) -> Iterator[Path]:
    """Bind each file into a directory of its own, by subPath: kubelet opens it without following a symlink."""
    place.mkdir()
    with contextlib.ExitStack() as stack:
        for name in SUB_PATHS:
            descriptor = os.open(f"{volume}/{contract.VIEW_FILES_DIRECTORY}/{name}", os.O_PATH | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            target = place / name
            target.mkdir() if stat.S_ISDIR(os.fstat(descriptor).st_mode) else target.touch()
            source = f"/proc/{os.getpid()}/fd/{descriptor}"
            subprocess.run(["mount", "--bind", source, target], check=True)
            stack.callback(syscalls.umount2, str(target))
        yield place


def command(driver: Driver, *arguments: str) -> str:
    """Return the output of `oneagent-csi`."""
    program = [sys.executable, "-m", "oneagent.csi_driver.cli.main", *arguments, f"--data-dir={driver.data.root}"]
    return subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_each_container_has_its_own_files(kubelet: Kubelet, tmp_path: Path, kind: str) -> None:
    pod = kind.replace(" ", "-").replace(",", "").lower()
    volume = kubelet.publish(pod, **(ATTRIBUTES | KINDS[kind]))
    with container(volume, tmp_path / "container") as place:
        assert (place / "container_app.conf").read_text() == container_conf.render(
            Container(
                container_name="app",
                image_name="registry.example/shop:1",
                pod_name=pod,
                pod_uid=f"uid-{pod}",
                base_pod_name="shop",
                namespace="default",
                cluster_id="cluster-1",
                node_name="node1",
            )
        )
        assert "containerName side-car\n" in (place / "container_side-car.conf").read_text()
        assert (place / "curl_options.conf").read_text() == "initialConnectRetryMs 6000\n"
        metadata = json.loads((place / "enrichment/dt_metadata.json").read_text())
        assert (metadata["k8s.workload.kind"], metadata["k8s.node.name"]) == ("deployment", "node1")
        assert metadata["team"] == "checkout"
        assert "k8s.pod.name=" + pod in (place / "enrichment/dt_metadata.properties").read_text()
    assert kubelet.publish(pod, **(ATTRIBUTES | KINDS[kind])) == volume
    kubelet.unpublish(pod)
    assert not volume.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_any_user_can_read_them_whatever_the_servers_umask(kubelet: Kubelet, kind: str) -> None:
    pod = "readable-" + kind.replace(" ", "-").replace(",", "").lower()
    volume = kubelet.publish(pod, **(ATTRIBUTES | KINDS[kind]))
    found = [volume, volume / "agent", *(volume / "agent/conf").rglob("*")]
    assert len(found) >= 8
    for path in found:
        wanted = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 & wanted == wanted, path
    kubelet.unpublish(pod)


def test_the_node_knows_its_dynakubes_cluster_and_tenant_better_than_the_pod(driver: Driver, kubelet: Kubelet) -> None:
    node.want(driver.data, node.demo(cluster_id="the-nodes", host_tenant=True))
    try:
        written = (kubelet.publish("told", **ATTRIBUTES) / "agent/conf/container_app.conf").read_text()
        assert "k8s_cluster_id the-nodes\n" in written
        assert "[host]\ntenant abc12345\n" in written
    finally:
        set_dynakubes(driver)


class TestFilesOnly:
    def test_are_no_mount_and_wait_for_nothing(self, driver: Driver, kubelet: Kubelet) -> None:
        mounts = driver.mounts()
        volume = kubelet.publish("conf", mode="conf", dynakube="stranger", **ATTRIBUTES)
        assert driver.mounts() == mounts
        assert driver.rows()["csi-conf"]["mode"] == "conf"
        assert driver.state("conf") == "written"
        assert {path.name for path in volume.iterdir()} == {"agent"}
        assert {path.name for path in (volume / "agent/conf").iterdir()} == set(SUB_PATHS)
        assert not kubelet.stats("conf").volume_condition.abnormal
        assert "NodePublishVolume: conf" in driver.log.read_text()
        kubelet.unpublish("conf")
        assert not volume.exists()
        assert "csi-conf" not in driver.rows()

    def test_need_no_attention(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("calm", mode="conf", dynakube="stranger", **ATTRIBUTES)
        status = json.loads(command(driver, "status", "--output=json"))
        assert not [problem for problem in status["problems"] if "calm" in problem]
        (row,) = [row for row in status["volumes"] if row["pod"] == "calm"]
        assert (row["mode"], row["state"]) == ("conf", "written")
        why = json.loads(command(driver, "why", "default/calm", "--output=json"))
        assert why["verdict"]["reason"] == "FilesOnly"
        kubelet.unpublish("calm")

    def test_stay_over_a_start_of_the_server_and_go_with_their_pod(self, tmp_path: Path) -> None:
        with node.running(tmp_path) as (driver, kubelet):
            volume = kubelet.publish("lasting", mode="conf", **ATTRIBUTES)
            kubelet.publish("lost", mode="conf", **ATTRIBUTES)
            driver.kill()
            shutil.rmtree(kubelet.target("lost").parent)
            driver.start()
            assert (volume / "agent/conf/container_app.conf").exists()
            eventually(lambda: set(driver.rows()) == {"csi-lasting"})
            kubelet.unpublish("lasting")
            assert not volume.exists()

    def test_are_not_written_over_a_mount(self, kubelet: Kubelet) -> None:
        kubelet.publish("mounted")
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            kubelet.publish("mounted", mode="conf")
        kubelet.unpublish("mounted")


class TestWhatAPodHasPlanted:
    """A pod may write into its plain directory, and kubelet publishes it again after a reboot."""

    @pytest.fixture(params=["empty view", "files only"])
    def fields(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return ATTRIBUTES | KINDS[request.param]

    def test_is_not_followed(self, kubelet: Kubelet, tmp_path: Path, fields: dict[str, Any]) -> None:
        volume = kubelet.publish("planter", **fields)
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_text("mine")
        conf = volume / "agent/conf"
        (conf / "container_app.conf").unlink()
        (conf / "container_app.conf").symlink_to(outside / "file")
        (conf / "container_side-car.conf").unlink()
        (conf / "container_side-car.conf").symlink_to(outside / "new")
        (conf / "curl_options.conf").unlink()
        os.mkfifo(conf / "curl_options.conf")
        shutil.rmtree(conf / "enrichment")
        (conf / "enrichment").symlink_to(outside)
        assert kubelet.publish("planter", **fields) == volume
        assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "mine"}
        assert outside.stat().st_mode & 0o077
        kubelet.unpublish("planter")
        assert (outside / "file").read_text() == "mine"

    @pytest.mark.parametrize("name", ["agent", "agent/conf"])
    def test_in_place_of_a_directory_stays(
        self, kubelet: Kubelet, tmp_path: Path, fields: dict[str, Any], name: str
    ) -> None:
        volume = kubelet.publish("planter", **fields)
        outside = tmp_path / "outside"
        outside.mkdir()
        shutil.rmtree(volume / name)
        (volume / name).symlink_to(outside)
        assert kubelet.publish("planter", **fields) == volume
        assert list(outside.iterdir()) == []
        kubelet.unpublish("planter")

    def test_and_what_it_has_removed_or_spoilt_is_put_right(self, kubelet: Kubelet, fields: dict[str, Any]) -> None:
        conf = kubelet.publish("spoiler", **fields) / "agent/conf"
        before = (conf / "container_app.conf").read_text()
        (conf / "container_app.conf").write_text("x" * 10_000)
        (conf / "container_side-car.conf").unlink()
        kubelet.publish("spoiler", **fields)
        assert (conf / "container_app.conf").read_text() == before
        assert "side-car" in (conf / "container_side-car.conf").read_text()
        kubelet.unpublish("spoiler")


class TestAFullDisk:
    def test_costs_the_contents_and_not_the_pod(self, tmp_path: Path) -> None:
        with (
            tmpfs(tmp_path / "data", "size=4m"),
            node.running(tmp_path, "--publish-wait=50ms") as (driver, kubelet),
        ):
            # The first publish warms up whatever needs the disk.
            kubelet.publish("before", **ATTRIBUTES)
            eventually(lambda: len(list(driver.data.volume_pool.iterdir())) >= 16)
            with contextlib.suppress(OSError), (driver.data.root / "ballast").open("wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
            volume = kubelet.publish("full", **ATTRIBUTES)
            assert os.path.ismount(volume)
            with container(volume, tmp_path / "container") as place:
                assert {path.name for path in place.iterdir()} == set(SUB_PATHS)
                assert (place / "container_app.conf").read_text() == ""
            assert "disk full, file left empty" in driver.log.read_text()


class TestFailurePolicyFail:
    def test_holds_the_pod_whatever_the_limits_says_so_and_lets_it_go_when_the_version_comes(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        fields = ATTRIBUTES | {"dynakube": LACKING, "failurePolicy": "fail", "retryTimeout": "0s"}
        for attempt in (1, 2, 3):
            with refused(grpc.StatusCode.UNAVAILABLE, f"attempt {attempt}: version 9.9.9 is not in the store yet") as _:
                kubelet.publish("held", **fields)
        with refused(grpc.StatusCode.UNAVAILABLE, "failurePolicy fail: the pod starts once its agent is mounted"):
            kubelet.publish("held", **fields)
        assert not kubelet.target("held").exists()
        told = command(driver, "why", "default/held")
        assert "failurePolicy fail: the pod starts once its agent is mounted" in told
        assert not [row for row in driver.table("notices") if row["pod_name"] == "held"]
        node.install(driver.data, MISSING)
        kubelet.publish("held", **fields)
        assert os.path.ismount(kubelet.target("held"))
        kubelet.unpublish("held")
        shutil.rmtree(driver.data.agent(MISSING))
