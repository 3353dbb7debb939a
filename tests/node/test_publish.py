"""Publish and unpublish over the real socket, with real mounts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.server import overlay
from tests.fakes.node import VERSION, Driver, Kubelet, demo, running, want
from tests.node.answers import refused


class TestAView:
    def test_shows_the_agent_and_the_pods_own_configuration(self, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1", containers="app,sidecar")
        assert (view / "agent/lib64/liboneagentproc.so").read_bytes() == b"library"
        lines = (view / "agent/conf/ruxitagentproc.conf").read_text().splitlines()
        assert {"fromPackage yes", "tenantToken abc12345.token"} <= set(lines)
        identity = (view / "agent/conf/container.conf").read_text()
        assert "k8s_fullpodname pod1\nk8s_poduid uid-pod1\nk8s_namespace default\nk8s_node_name node1\n" in identity
        assert "containerName sidecar\n" in (view / "agent/conf/container_sidecar.conf").read_text()

    @pytest.mark.skipif(
        overlay.in_user_namespace(Path("/proc/self/uid_map").read_text()),
        reason="a user namespace of an ordinary user has no other user id",
    )
    def test_is_writable_for_any_user_id_and_private_to_its_pod(self, driver: Driver, kubelet: Kubelet) -> None:
        one, other = kubelet.publish("pod1"), kubelet.publish("pod2")
        script = (
            "cd $0 && echo mine > agent/log.txt && mkdir -p log/sub && echo more > log/sub/x"
            " && ! rm -f agent/conf/container.conf"
        )
        for folder in (driver.place, *driver.place.parents):
            if folder.stat().st_uid == os.getuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        done = subprocess.run(
            ["sh", "-c", script, str(one)], user=12345, group=12345, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (one / "agent/log.txt").read_text() == "mine\n"
        assert not (other / "agent/log.txt").exists()

    def test_copies_no_file_of_the_agent(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        upper = Path(driver.data.volume(VolumeId("csi-pod1")).upper)
        assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == [
            "agent",
            "agent/conf",
            "agent/conf/container.conf",
            "agent/conf/enrichment",
        ]

    def test_that_is_read_only_has_no_upper_layer(self, driver: Driver, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1", read_only=True)
        assert "k8s_fullpodname pod1" in (view / "agent/conf/container.conf").read_text()
        assert (view / "agent/lib64/liboneagentproc.so").exists()
        with pytest.raises(OSError, match="Read-only"):
            (view / "x").write_text("x")
        (mount,) = driver.mounts()
        assert mount.read_only
        assert not any(option.startswith("upperdir=") for option in mount.super_options)
        kubelet.publish("pod1", read_only=True)
        kubelet.unpublish("pod1")
        assert not driver.mounts()

    def test_that_is_read_only_has_the_folders_that_agents_write_to(self, driver: Driver, kubelet: Kubelet) -> None:
        shipped = driver.data.root / "agents" / VERSION / "log"
        shipped.write_text("a file in the agent's package")
        view = kubelet.publish("pod1", read_only=True)
        assert {path.name for path in view.iterdir() if path.is_dir()} == {"agent", "datastorage", "log"}
        with mounted_on(view / "log"):
            (view / "log/shop.log").write_text("written")
        kubelet.unpublish("pod1")
        assert not view.exists()


class TestAnEmptyView:
    @pytest.fixture(autouse=True)
    def _without_an_agent(self, driver: Driver) -> None:
        want(driver.data, demo(version=Version("other"), mount_attempts=0))

    def test_has_the_inert_library_only(self, driver: Driver, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1")
        assert driver.state("pod1") == "empty"
        assert [path for path in view.rglob("*") if not path.is_dir()] == [view / PRELOAD_LIBRARY]
        kubelet.unpublish("pod1")
        assert not view.exists()

    def test_does_not_make_a_process_print_that_its_library_is_missing(self, kubelet: Kubelet) -> None:
        library = kubelet.publish("pod1") / PRELOAD_LIBRARY
        program = "import sys; sys.stdout.write(open('/proc/self/maps').read())"
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={"LD_PRELOAD": str(library)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stderr == ""
        assert str(library) in run.stdout

    def test_in_which_a_pod_has_planted_a_link_is_left_as_it_is(self, kubelet: Kubelet, tmp_path: Path) -> None:
        view = kubelet.publish("pod1")
        shutil.rmtree(view / "agent")
        outside = tmp_path / "outside"
        outside.mkdir()
        (view / "agent").symlink_to(outside)
        kubelet.publish("pod1")
        assert list(outside.iterdir()) == []

    def test_that_is_read_only_has_the_folders_that_agents_write_to(self, driver: Driver, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1", read_only=True)
        assert driver.state("pod1") == "empty"
        assert {path.name for path in view.iterdir()} == {"agent", "datastorage", "log"}
        assert kubelet.publish("pod1", read_only=True) == view
        kubelet.unpublish("pod1")
        assert not view.exists()


class TestTheHostAgentsFolder:
    def test_is_only_for_pods_of_the_drivers_namespace(self, tmp_path: Path) -> None:
        with running(tmp_path, "--namespace=dynatrace") as (driver, kubelet):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "only for pods of the namespace 'dynatrace'"):
                kubelet.publish("shop", mode="host")
            assert not driver.mounts()
            of_its_own = kubelet.request("agent", mode="host")
            of_its_own.volume_context["csi.storage.k8s.io/pod.namespace"] = "dynatrace"
            kubelet.target("agent").parent.mkdir(parents=True)
            kubelet.node.NodePublishVolume(of_its_own, timeout=5)
            assert len(driver.mounts()) == 1
            kubelet.publish("app")


@contextlib.contextmanager
def mounted_on(folder: Path) -> Iterator[None]:
    """Mount something to write to, as a container runtime does."""
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
