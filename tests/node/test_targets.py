"""Targets that are not to be trusted, mount flags, and the host agents' folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName
from oneagent.csi_driver.linux import mount_table
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("targets"), "--publish-wait=100ms") as (driver, _):
        yield driver


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
            kubelet.node.NodePublishVolume(request, timeout=10)

    def test_whose_parent_kubelet_has_not_made_is_refused(self, driver: Driver, kubelet: Kubelet) -> None:
        request = kubelet.request("parentless")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "parent directory"):
            kubelet.node.NodePublishVolume(request, timeout=10)
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
        kubelet.publish("first", mode="host", dynakube="unheard-of")
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
