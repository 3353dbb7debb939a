"""Publish and unpublish over the real socket, with real mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from oneagent.csi_driver import views
from oneagent.csi_driver.paths import VolumeId
from tests.fakes.node import Driver, Kubelet


class TestAView:
    def test_shows_the_agent_and_the_pods_own_configuration(self, kubelet: Kubelet) -> None:
        view = kubelet.publish("pod1", containers="app,sidecar")
        assert (view / "agent/lib64/liboneagentproc.so").read_bytes() == b"library"
        assert (view / "agent/conf/ruxitagentproc.conf").read_text() == "[general]\nfromPackage yes\n"
        identity = (view / "agent/conf/container.conf").read_text()
        assert "k8s_fullpodname pod1\nk8s_poduid uid-pod1\nk8s_namespace default\nk8s_node_name node1\n" in identity
        assert "containerName sidecar\n" in (view / "agent/conf/container_sidecar.conf").read_text()

    @pytest.mark.skipif(
        views.in_user_namespace(Path("/proc/self/uid_map").read_text()),
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
