"""Volumes of pods with a user namespace: what the runtime maps to that namespace are binds, never an overlay."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import contract, inert_library
from oneagent.csi_driver.data_dir import LayerId, VolumeId
from oneagent.csi_driver.linux import mount_table, syscalls
from oneagent.csi_driver.provisioner import trash
from oneagent.csi_driver.provisioner.garbage_collector import find_references
from oneagent.csi_driver.server import overlay
from oneagent.csi_driver.store import config_layers, mount_points, store_key
from tests.fakes import node
from tests.fakes.node import VERSION, Driver, Kubelet
from tests.node.answers import eventually, refused

ATTRIBUTES: Final[dict[str, Any]] = {
    "userNamespace": "true",
    "containers": "app",
    "connectRetryMs": "6000",
    "enrichment": "true",
}
MISSING = store_key.of_version(Version("9.9.9"), "tests")
LACKING = DynaKubeName("lacking")
_ROOT_INSIDE = 100_000
SUB_PATHS: Final = (
    contract.AGENT_SUBDIRECTORY,
    oneagent.AGENT_CONFIG_FILE,
    "agent/conf/container_app.conf",
    "agent/conf/curl_options.conf",
    "agent/conf/enrichment",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("mapped"), "--publish-wait=5s") as (driver, _):
        lacking = node.demo(name=LACKING, version=MISSING, mount_attempts=0, mount_policy="wait")
        node.want(driver.data, node.demo(), lacking)
        yield driver


@pytest.fixture
def kubelet(driver: Driver) -> Kubelet:
    return Kubelet(driver.socket, driver.target_root)


@contextlib.contextmanager
def user_namespace() -> Iterator[int]:
    """A user namespace whose root is another user of the node, as the runtime makes for a pod."""
    process = subprocess.Popen(["unshare", "--user", "sleep", "1000"])
    try:
        own = Path("/proc/self/ns/user").readlink()
        eventually(lambda: Path(f"/proc/{process.pid}/ns/user").readlink() != own)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(f"0 {_ROOT_INSIDE} 65536\n")
        descriptor = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def mapped(source: Path, target: Path, namespace: int) -> Iterator[None]:
    """Mount a source of a container's volume as the runtime does: a clone, mapped to the pod's user namespace."""
    mount = syscalls.open_tree(str(source))
    directory = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(mount, syscalls.MOUNT_ATTR_IDMAP | syscalls.MS_RDONLY, namespace)
        syscalls.move_mount(mount, directory)
    finally:
        os.close(mount)
        os.close(directory)
    try:
        yield
    finally:
        syscalls.umount2(str(target))


@contextlib.contextmanager
def sub_path(volume: Path, path: str, place: Path) -> Iterator[Path]:
    """Bind a part of a volume, as kubelet does for a subPath, without following a symlink."""
    descriptor = os.open(volume / path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        place.mkdir() if (volume / path).is_dir() else place.touch()
        syscalls.mount(f"/proc/self/fd/{descriptor}", str(place), "", syscalls.MS_BIND)
    finally:
        os.close(descriptor)
    try:
        yield place
    finally:
        syscalls.umount2(str(place))


@contextlib.contextmanager
def container(volume: Path, place: Path) -> Iterator[Path]:
    """The root of a container with the volume's parts mapped to its pod's user namespace; the agent is at `opt`."""
    place.mkdir()
    root = place / "root"
    data = place / "data"
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(user_namespace())
        root.mkdir()
        data.mkdir()

        def mount(source: Path, target: Path) -> None:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.mkdir() if source.is_dir() else target.touch()
            stack.enter_context(mapped(source, target, namespace))

        parts = {
            path: stack.enter_context(sub_path(volume, path, place / f"part{number}"))
            for number, path in enumerate(SUB_PATHS)
        }
        agent = root / "opt"
        mount(parts.pop(contract.AGENT_SUBDIRECTORY), agent)
        mount(parts.pop(oneagent.AGENT_CONFIG_FILE), agent / oneagent.AGENT_CONFIG_FILE)
        for name in oneagent.WRITABLE_DIRECTORIES:
            # Of an emptyDir; the mount point has to be there, since the agent is read-only.
            (data / name).mkdir()
            syscalls.mount(str(data / name), str(agent / name), "", syscalls.MS_BIND)
            stack.callback(syscalls.umount2, str(agent / name))
        for path, source in parts.items():
            mount(source, root / path)
        yield root


def needs_root() -> None:
    if overlay.in_user_namespace(Path("/proc/self/uid_map").read_text()):
        pytest.skip("only root of the node maps mounts")


@pytest.mark.parametrize("kind", ["agent", "empty view"])
def test_a_container_gets_everything_mapped_to_its_user_namespace(kubelet: Kubelet, tmp_path: Path, kind: str) -> None:
    needs_root()
    pod = kind.replace(" ", "-")
    fields: dict[str, Any] = ATTRIBUTES | ({"dynakube": LACKING} if kind == "empty view" else {})
    volume = kubelet.publish(pod, **fields)
    with container(volume, tmp_path / "pod") as root:
        library = root / "opt" / PRELOAD_LIBRARY
        assert library.stat().st_uid == _ROOT_INSIDE
        if kind == "agent":
            assert library.read_bytes() == b"library"
            assert "fromPackage yes" in (root / "opt" / oneagent.AGENT_CONFIG_FILE).read_text()
        else:
            assert inert_library.is_inert(str(library))
        (root / "opt/log/shop.log").write_text("written")
        with pytest.raises(OSError, match="Read-only"):
            (root / "opt/agent/new").write_text("x")
        assert f"k8s_fullpodname {pod}\n" in (root / "agent/conf/container_app.conf").read_text()
        assert "initialConnectRetryMs 6000" in (root / "agent/conf/curl_options.conf").read_text()
        assert json.loads((root / "agent/conf/enrichment/dt_metadata.json").read_text())["k8s.pod.name"] == pod
    kubelet.unpublish(pod)
    assert not volume.exists()


def test_an_overlay_can_not_be_mapped_which_is_why_these_pods_get_none(kubelet: Kubelet, tmp_path: Path) -> None:
    needs_root()
    volume = kubelet.publish("overlay")
    target = tmp_path / "target"
    target.mkdir()
    with (
        user_namespace() as namespace,
        pytest.raises(OSError, match="Invalid argument"),
        mapped(volume, target, namespace),
    ):
        pytest.skip("this kernel maps overlays")
    kubelet.unpublish("overlay")


def test_both_mounts_are_read_only_and_nothing_of_the_agent_is_copied(driver: Driver, kubelet: Kubelet) -> None:
    volume = kubelet.publish("shared", **ATTRIBUTES)
    files, agent = [mount for mount in driver.mounts() if "/shared/" in mount.target]
    assert (files.target, agent.target) == (str(volume), f"{volume}/bin")
    for mount in (files, agent):
        assert mount.fs_type != "overlay"
        assert mount.read_only
        with pytest.raises(OSError, match="Read-only"):
            (Path(mount.target) / "new").write_text("x")
    assert (volume / "bin" / PRELOAD_LIBRARY).stat().st_ino == Path(
        driver.data.agent(VERSION), PRELOAD_LIBRARY
    ).stat().st_ino
    options = Path("/proc/self/mountinfo").read_text().splitlines()
    own = [line for line in options if f" {volume}" in line]
    assert all("nosuid" in line and "nodev" in line for line in own)
    assert not kubelet.stats("shared").volume_condition.abnormal
    assert kubelet.publish("shared", **ATTRIBUTES) == volume
    assert len([mount for mount in driver.mounts() if "/shared/" in mount.target]) == 2
    kubelet.unpublish("shared")
    assert not [mount for mount in driver.mounts() if "/shared/" in mount.target]
    assert not volume.exists()
    assert "csi-shared" not in os.listdir(driver.data.volumes)
    assert driver.state("shared") == ""


def test_the_configuration_is_that_of_the_dynakubes_layer(driver: Driver, kubelet: Kubelet) -> None:
    demo = node.demo(name=DynaKubeName("configured"))
    layer: LayerId = config_layers.ensure(
        driver.data, demo.tenant, {oneagent.AGENT_CONFIG_FILE: "[general]\nfromTenant yes\n"}
    )
    node.want(driver.data, node.demo(), node.demo(name=demo.name, layer=layer))
    try:
        volume = kubelet.publish("configured", dynakube="configured", **ATTRIBUTES)
        assert (volume / oneagent.AGENT_CONFIG_FILE).read_text() == "[general]\nfromTenant yes\n"
        kubelet.unpublish("configured")
    finally:
        lacking = node.demo(name=LACKING, version=MISSING, mount_attempts=0, mount_policy="wait")
        node.want(driver.data, node.demo(), lacking)


def test_the_other_kind_of_view_is_refused_while_one_is_mounted(kubelet: Kubelet) -> None:
    kubelet.publish("binds", **ATTRIBUTES)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "another kind of view"):
        kubelet.publish("binds")
    kubelet.unpublish("binds")
    kubelet.publish("layers")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "another kind of view"):
        kubelet.publish("layers", **ATTRIBUTES)
    kubelet.unpublish("layers")


class TestAVersionOfAnEarlierDriver:
    @pytest.mark.parametrize("lacks", ["log", "datastorage", oneagent.AGENT_CONFIG_FILE])
    def test_gets_the_mount_points_that_it_lacks(self, driver: Driver, kubelet: Kubelet, lacks: str) -> None:
        tree = Path(driver.data.agent(VERSION))
        path = tree / lacks
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        volume = kubelet.publish("older", **ATTRIBUTES)
        assert (volume / "bin" / lacks).exists()
        assert mount_points.is_added(tree, lacks)
        assert (volume / oneagent.AGENT_CONFIG_FILE).is_file()
        kubelet.unpublish("older")
        if lacks != oneagent.AGENT_CONFIG_FILE:
            # A view shows them, and each user may write to it.
            assert (tree / lacks).stat().st_mode & 0o7777 == 0o1777
        (tree / oneagent.AGENT_CONFIG_FILE).write_text("[general]\nfromPackage yes\n")

    def test_that_has_something_else_there_is_not_offered(self, driver: Driver, kubelet: Kubelet) -> None:
        path = Path(driver.data.agent(VERSION), "log")
        path.rmdir()
        path.write_text("a file in the agent's package")
        try:
            with refused(grpc.StatusCode.UNAVAILABLE, "the view can't be mounted: Not a directory"):
                kubelet.publish("odd", **ATTRIBUTES)
            assert not kubelet.target("odd").exists()
            kubelet.publish("ordinary")
        finally:
            path.unlink()
            kubelet.unpublish("ordinary")


class TestAnEmptyView:
    def test_has_all_parts_that_containers_mount(self, driver: Driver, kubelet: Kubelet) -> None:
        volume = kubelet.publish("empty", dynakube=LACKING, **ATTRIBUTES)
        assert driver.state("empty") == "empty"
        wanted = {*SUB_PATHS, *(f"bin/{path}" for path in ("log", "datastorage", oneagent.AGENT_CONFIG_FILE))}
        assert [path for path in sorted(wanted) if not (volume / path).exists()] == []
        assert inert_library.is_inert(f"{volume}/bin/{PRELOAD_LIBRARY}")
        assert kubelet.publish("empty", dynakube=LACKING, **ATTRIBUTES) == volume
        kubelet.unpublish("empty")
        assert not volume.exists()

    @pytest.mark.parametrize("name", ["bin", "bin/log", "bin/agent", "agent/conf/ruxitagentproc.conf"])
    def test_in_which_a_pod_has_planted_a_link_is_left_as_it_is(
        self, kubelet: Kubelet, tmp_path: Path, name: str
    ) -> None:
        volume = kubelet.publish("planter", dynakube=LACKING, **ATTRIBUTES)
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_text("mine")
        shutil.rmtree(volume / name) if (volume / name).is_dir() else (volume / name).unlink()
        (volume / name).symlink_to(outside / "file" if name.endswith(".conf") else outside)
        assert kubelet.publish("planter", dynakube=LACKING, **ATTRIBUTES) == volume
        assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "mine"}
        kubelet.unpublish("planter")
        assert (outside / "file").read_text() == "mine"


class TestALostDatabase:
    def test_is_made_up_from_the_mount_table(self, tmp_path: Path) -> None:
        with node.running(tmp_path) as (driver, before):
            volume = before.publish("pod1", **ATTRIBUTES)
            driver.kill()
            for file in driver.data.root.glob("metadata.db*"):
                file.unlink()
            kubelet = driver.start()
            eventually(lambda: driver.state("pod1") == "mounted")
            row = driver.rows()["csi-pod1"]
            assert (row["version"], row["pod_name"]) == (VERSION, "pod1")
            assert kubelet.publish("pod1", **ATTRIBUTES) == volume
            assert len(driver.mounts()) == 2
            kubelet.unpublish("pod1")
            assert driver.mounts() == []
            assert list(driver.data.volumes.iterdir()) == []

    def test_takes_no_directory_of_a_pod_for_a_volume(self, tmp_path: Path) -> None:
        with node.running(tmp_path) as (driver, _):
            driver.kill()
            planted = tmp_path / "empty-dir/volumes/csi-planted/upper"
            planted.mkdir(parents=True)
            with sub_path(planted.parent, "upper", tmp_path / "kubelet-sub-path"):
                kubelet = driver.start()
                assert driver.rows() == {}
                assert list(kubelet.publish("planted", **ATTRIBUTES).iterdir())
                kubelet.unpublish("planted")


class TestAVersionInUse:
    def test_is_kept_by_its_bind_without_a_row(self, driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
        volume = kubelet.publish("keeper", **ATTRIBUTES)
        assert VERSION in find_references(driver.data, mount_table.read(), (), (), (), ()).versions
        with sub_path(volume, "bin", tmp_path / "part"):
            kubelet.unpublish("keeper")
            assert VERSION in find_references(driver.data, mount_table.read(), (), (), (), ()).versions
        assert VERSION not in find_references(driver.data, mount_table.read(), (), (), (), ()).versions

    def test_is_kept_in_the_trash_if_it_was_corrupt(self, tmp_path: Path) -> None:
        with node.running(tmp_path) as (driver, kubelet):
            volume = kubelet.publish("pod1", **ATTRIBUTES)
            entry = driver.data.trash / f"{VERSION}.18ab"
            Path(driver.data.agent(VERSION)).rename(entry)
            assert trash.find_references(mount_table.read(), driver.data).is_used(entry.name)
            node.install(driver.data, VERSION, b"newer")
            assert (volume / "bin" / PRELOAD_LIBRARY).read_bytes() == b"library"
            driver.kill()
            restarted = driver.start()
            eventually(lambda: driver.rows()["csi-pod1"]["version"] == VERSION)
            restarted.unpublish("pod1")
            assert not trash.find_references(mount_table.read(), driver.data).is_used(entry.name)

    def test_is_counted_by_status_and_explained_by_why(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("counted", **ATTRIBUTES)
        eventually(lambda: driver.state("counted") == "mounted")
        status = report(driver, "status")
        (version,) = [row for row in status["versions"] if row["version"] == VERSION]
        assert version["views"] >= 1
        (row,) = [row for row in status["volumes"] if row["pod"] == "counted"]
        assert (row["state"], row["mounted"]) == ("mounted", True)
        found = report(driver, "why", "default/counted")
        assert found["view"]["lower"][-1].endswith(f"/agents/{VERSION}")
        assert found["verdict"]["reason"] in {"NoProcess", "ProcessesNotSeen"}
        kubelet.unpublish("counted")


def report(driver: Driver, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", *arguments, "--output=json"]
    answer = subprocess.run([*command, f"--data-dir={driver.data.root}"], stdout=subprocess.PIPE, check=False)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_a_view_that_a_process_uses_is_not_unpublished_but_later(driver: Driver, kubelet: Kubelet) -> None:
    volume = kubelet.publish("busy", **ATTRIBUTES)
    with (volume / "bin" / PRELOAD_LIBRARY).open("rb"), refused(grpc.StatusCode.INTERNAL, "a process still uses it"):
        kubelet.unpublish("busy")
    kubelet.unpublish("busy")
    assert not volume.exists()
    assert not os.path.exists(driver.data.volume(VolumeId("csi-busy")).root)
