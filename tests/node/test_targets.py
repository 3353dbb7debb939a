"""What may be mounted where: idempotence, conflicts, and targets that are not to be trusted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused

OTHER = store_key.of_version(Version("2.0.0"), "tests")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("targets"), "--publish-wait=100ms") as (driver, _):
        node.install(driver.data, OTHER, b"other")
        node.want(driver.data, node.demo(), node.demo(name=DynaKubeName("other"), version=OTHER))
        yield driver


@pytest.fixture
def foreign(kubelet: Kubelet) -> Iterator[Path]:
    """A mount of somebody else at the target of the pod `foreign`."""
    target = kubelet.target("foreign")
    target.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", target], check=True)
    (target / "precious").write_text("x")
    yield target
    subprocess.run(["umount", target], check=False)
    target.rmdir()


def send(kubelet: Kubelet, request: csi_pb2.NodePublishVolumeRequest) -> None:
    kubelet.node.NodePublishVolume(request, timeout=10)


class TestPublishedAgain:
    @pytest.mark.parametrize("read_only", [False, True])
    def test_the_same_volume_is_ok_and_mounts_nothing_more(
        self, driver: Driver, kubelet: Kubelet, read_only: bool
    ) -> None:
        pod = f"again{read_only}".lower()
        target = kubelet.publish(pod, read_only=read_only)
        for _ in range(9):
            kubelet.publish(pod, read_only=read_only)
        assert [mount.target for mount in driver.mounts()].count(str(target)) == 1
        if not read_only:
            (target / "agent/mark").write_text("x")
            kubelet.publish(pod)
            assert (target / "agent/mark").exists()
        for _ in range(10):
            kubelet.unpublish(pod)
        assert not target.exists()

    def test_with_other_arguments_is_refused_and_changes_nothing(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("changed")
        others: list[dict[str, Any]] = [{"read_only": True}, {"dynakube": "other"}, {"mode": "host"}]
        for fields in others:
            with refused(grpc.StatusCode.ALREADY_EXISTS, "csi-changed"):
                kubelet.publish("changed", **fields)
        assert (target / "agent/lib64/liboneagentproc.so").read_bytes() == b"library"
        assert [mount.target for mount in driver.mounts()].count(str(target)) == 1

    def test_at_a_second_target_is_refused_until_the_first_one_is_unpublished(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        kubelet.publish("moving")
        request = kubelet.request("moving")
        second = kubelet.target("moved")
        second.parent.mkdir(parents=True)
        request.target_path = str(second)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, str(kubelet.target("moving"))):
            send(kubelet, request)
        assert not second.exists()
        kubelet.unpublish("moving")
        send(kubelet, request)
        assert os.path.ismount(second)
        # An unpublish that comes late for the first target leaves the second one alone.
        kubelet.unpublish("moving")
        assert os.path.ismount(second)


class TestAForeignMount:
    def test_is_no_place_for_a_view(self, driver: Driver, kubelet: Kubelet, foreign: Path) -> None:
        for mode in ("app", "host"):
            with refused(grpc.StatusCode.ALREADY_EXISTS, "something else is mounted"):
                kubelet.publish("foreign", mode=mode)
        assert (foreign / "precious").exists()
        assert "csi-foreign" not in driver.rows()

    def test_is_left_alone_by_an_unpublish(self, kubelet: Kubelet, foreign: Path) -> None:
        kubelet.unpublish("foreign")
        assert (foreign / "precious").exists()

    def test_that_took_the_place_of_a_host_agents_folder_is_a_conflict(self, kubelet: Kubelet) -> None:
        target = kubelet.publish("replaced", mode="host")
        subprocess.run(["umount", target], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            kubelet.publish("replaced", mode="host")
        subprocess.run(["umount", target], check=True)

    def test_may_be_another_volumes_view(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("owner")
        request = kubelet.request("intruder")
        request.target_path = str(target)
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            send(kubelet, request)
        stray = csi_pb2.NodeUnpublishVolumeRequest(volume_id="csi-intruder", target_path=str(target))
        kubelet.node.NodeUnpublishVolume(stray, timeout=10)
        assert os.path.ismount(target)


class TestUnpublish:
    def test_of_an_unknown_volume_is_ok(self, kubelet: Kubelet) -> None:
        kubelet.unpublish("never-seen")
        kubelet.target("seen-by-kubelet").mkdir(parents=True)
        kubelet.unpublish("seen-by-kubelet")
        assert not kubelet.target("seen-by-kubelet").exists()

    def test_of_an_unknown_volume_deletes_nothing_that_is_not_a_csi_volume(self, kubelet: Kubelet) -> None:
        data = kubelet.root / "pods/victim/volumes/kubernetes.io~empty-dir/data"
        data.mkdir(parents=True)
        (data / "precious").write_text("x")
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id="csi-stray", target_path=str(data))
        kubelet.node.NodeUnpublishVolume(request, timeout=10)
        assert (data / "precious").exists()

    def test_of_a_view_in_use_fails_keeps_it_and_works_later(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("busy")
        with (target / "agent/log.txt").open("w"), refused(grpc.StatusCode.INTERNAL, "a process still uses it"):
            kubelet.unpublish("busy")
        assert os.path.ismount(target)
        eventually(lambda: driver.state("busy") == "mounted")
        assert (Path(driver.data.volume(VolumeId("csi-busy")).upper) / "agent/log.txt").exists()
        kubelet.publish("busy")
        kubelet.unpublish("busy")
        assert not target.exists()
        assert "csi-busy" not in driver.rows()

    def test_leaves_nothing_behind(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("leaver")
        (target / "agent/deep/er").mkdir(parents=True)
        kubelet.unpublish("leaver")
        assert not target.exists()
        assert target.parent.exists(), "what kubelet made is for kubelet to remove"
        assert "csi-leaver" not in os.listdir(driver.data.volumes)
        assert "csi-leaver" not in driver.rows()

    def test_is_ok_where_kubelet_has_removed_the_folder_already(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("removed")
        subprocess.run(["umount", target], check=True)
        target.rmdir()
        kubelet.forget("removed")
        kubelet.unpublish("removed")
        assert "csi-removed" not in driver.rows()
        assert "csi-removed" not in os.listdir(driver.data.volumes)

    def test_removes_all_that_another_program_stacked_on_the_view(self, kubelet: Kubelet) -> None:
        target = kubelet.publish("stacked")
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        kubelet.unpublish("stacked")
        assert not target.exists()


class TestATargetThatIsNotToBeTrusted:
    def test_behind_a_symlink_is_refused(self, driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
        elsewhere = tmp_path / "etc"
        elsewhere.mkdir()
        pod = kubelet.root / "pods/sneaky"
        pod.parent.mkdir(exist_ok=True)
        pod.symlink_to(elsewhere)
        (elsewhere / "volumes/kubernetes.io~csi/oneagent-bin").mkdir(parents=True)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "contains a symlink"):
            kubelet.publish("sneaky")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "contains a symlink"):
            kubelet.unpublish("sneaky")
        assert "csi-sneaky" not in driver.rows()

    def test_that_is_a_symlink_itself_is_never_followed(self, driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        target = kubelet.target("linked")
        target.parent.mkdir(parents=True)
        target.symlink_to(tmp_path / "etc")
        with refused(grpc.StatusCode.UNAVAILABLE):
            kubelet.publish("linked")
        assert not [mount for mount in mount_table.read() if mount.target == str(tmp_path / "etc")]

    @pytest.mark.parametrize("path", ["/etc", "{root}", "{root}/pods/../../x", "{root}-more/x", "relative"])
    def test_outside_of_kubelets_folder_is_refused(self, kubelet: Kubelet, path: str) -> None:
        request = kubelet.request("outside")
        request.target_path = path.format(root=kubelet.root)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "target_path: "):
            send(kubelet, request)

    def test_whose_parent_kubelet_has_not_made_is_refused(self, driver: Driver, kubelet: Kubelet) -> None:
        request = kubelet.request("parentless")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "parent directory"):
            send(kubelet, request)
        assert "csi-parentless" not in driver.rows()


class TestMountFlags:
    def test_are_passed_on_and_added_to_nosuid_and_nodev(self, kubelet: Kubelet) -> None:
        flags = os.statvfs(kubelet.publish("flags", mount_flags=("noexec",))).f_flag
        assert flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
        assert not os.statvfs(kubelet.publish("flagless")).f_flag & os.ST_NOEXEC

    @pytest.mark.parametrize(
        "flag",
        ["lowerdir=/etc", "upperdir=/etc", "suid", "index=on", 'context="x",lowerdir=/etc', 'context="x,lowerdir=/"'],
    )
    def test_that_could_choose_the_layers_are_refused(self, kubelet: Kubelet, flag: str) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "mount_flags"):
            kubelet.publish("injection", mount_flags=(flag,))
        assert not kubelet.target("injection").exists()

    def test_of_selinux_reach_the_kernel(self, driver: Driver, kubelet: Kubelet) -> None:
        label = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
        if Path("/sys/fs/selinux/enforce").exists():
            target = kubelet.publish("labelled", mount_flags=(label,))
            (mount,) = [mount for mount in driver.mounts() if mount.target == str(target)]
            assert any("container_file_t:s0:c1,c2" in option for option in mount.super_options)
        else:
            # A kernel without SELinux refuses the option: it was passed on.
            with refused(grpc.StatusCode.UNAVAILABLE, "Invalid argument"):
                kubelet.publish("labelled", mount_flags=(label,))
            assert not kubelet.target("labelled").exists()


class TestTheHostsFolder:
    def test_is_shared_by_its_volumes_and_outlives_them(self, driver: Driver, kubelet: Kubelet) -> None:
        one, other = (kubelet.publish(pod, mode="host") for pod in ("host1", "host2"))
        (one / "state").write_text("kept")
        assert (other / "state").read_text() == "kept"
        for pod in ("host1", "host2"):
            kubelet.unpublish(pod)
            assert not kubelet.target(pod).exists()
        assert (driver.data.host_agent_directory(DynaKubeName("demo")) / "state").read_text() == "kept"
        assert (kubelet.publish("host3", mode="host") / "state").read_text() == "kept"

    def test_is_another_one_for_each_dynakube(self, kubelet: Kubelet) -> None:
        (kubelet.publish("mine", mode="host", dynakube="mine") / "x").write_text("")
        assert not list(kubelet.publish("yours", mode="host", dynakube="yours").iterdir())

    def test_needs_neither_a_version_nor_a_known_dynakube(self, driver: Driver, kubelet: Kubelet) -> None:
        began = time.monotonic()
        kubelet.publish("first", mode="host", dynakube="unheard-of")
        assert time.monotonic() - began < 0.5
        eventually(lambda: driver.state("first") == "mounted")

    def test_can_be_mounted_read_only(self, kubelet: Kubelet) -> None:
        target = kubelet.publish("looker", mode="host", read_only=True)
        with pytest.raises(OSError, match="Read-only"):
            (target / "x").write_text("x")
        assert os.statvfs(target).f_flag & os.ST_NOSUID

    def test_is_published_only_once(self, driver: Driver, kubelet: Kubelet) -> None:
        target = kubelet.publish("hosted", mode="host")
        for _ in range(2):
            kubelet.publish("hosted", mode="host")
        assert [mount.target for mount in driver.mounts()].count(str(target)) == 1
