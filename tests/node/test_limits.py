"""Limits of the node other than bytes: messages name them, and versions make room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.csi_driver.linux import syscalls
from tests.fakes import node, packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, Process, eventually, manifest
from tests.node.answers import refused

VERSION = packages.VERSION
MS_REC = 16384


@contextlib.contextmanager
def tmpfs(directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("rw", *options)), "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextlib.contextmanager
def all_mounts_taken(place: Path) -> Iterator[None]:
    """Mount until the kernel refuses: copies of everything that is mounted there, then of less and less."""
    with tmpfs(place) as root:
        copies: list[Path] = []

        def copy(source: Path) -> bool:
            target = root / f"copy{len(copies)}"
            target.mkdir(exist_ok=True)
            try:
                syscalls.mount(str(source), str(target), "", syscalls.MS_BIND | MS_REC)
            except OSError:
                return False
            copies.append(target)
            return True

        while copy(root):
            pass  # Each copy has as many mounts as there were before.
        for source in reversed(list(copies)):
            while copy(source):
                pass
        yield


def take_all_inodes(data: Path, leave: int) -> Path:
    """Take the free inodes of the disk but some; return the directory of the files that do."""
    ballast = data / "ballast"
    ballast.mkdir()
    for number in range(os.statvfs(data).f_favail - leave):
        (ballast / str(number)).touch()
    return ballast


class TestARefusedMount:
    def test_names_the_limit_of_mounts(self, tmp_path: Path) -> None:
        if os.geteuid() or int(Path("/proc/sys/fs/mount-max").read_text()) > 100_000:
            pytest.skip("the limit of mounts is too high to reach")
        with node.running(tmp_path, "--publish-wait=50ms") as (_, kubelet):
            with (
                all_mounts_taken(tmp_path / "many"),
                refused(grpc.StatusCode.UNAVAILABLE, "mounts are there, and fs.mount-max allows"),
            ):
                kubelet.publish("pod1")
            assert os.path.ismount(kubelet.publish("pod1"))

    def test_names_the_option_that_the_kernel_does_not_take(self, tmp_path: Path) -> None:
        if "selinuxfs" in Path("/proc/filesystems").read_text():
            pytest.skip("this kernel has SELinux")
        option = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
        with (
            node.running(tmp_path, "--publish-wait=50ms") as (_, kubelet),
            refused(grpc.StatusCode.UNAVAILABLE, f"the mount option {option} needs SELinux"),
        ):
            kubelet.publish("pod1", mount_flags=(option,))

    def test_names_inodes_where_these_are_what_the_disk_lacks(self, tmp_path: Path) -> None:
        with (
            tmpfs(tmp_path / "data", "nr_inodes=600"),
            node.running(tmp_path, "--publish-wait=50ms") as (driver, kubelet),
        ):
            take_all_inodes(driver.data.root, 0)
            with refused(grpc.StatusCode.UNAVAILABLE, "0 of the disk's 600 inodes are free"):
                for number in range(100):
                    kubelet.publish(f"pod{number}")
            status = subprocess.run(
                [sys.executable, "-m", "oneagent.csi_driver.cli.main", "status", f"--data-dir={driver.data.root}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "0 of 600 inodes free on the disk" in status.stdout


class TestADiskWithoutInodes:
    def test_makes_room_for_a_version_as_one_without_bytes(self, tmp_path: Path) -> None:
        with double.Tenant() as server, tmpfs(tmp_path / "data", "nr_inodes=1000"):
            server.release(VERSION, packages.build(tmp_path / "agent.zip"))
            server.release(OTHER, packages.build(tmp_path / "other.zip", OTHER))
            process = Process(tmp_path, "--gc-keep-unused=1h", "--gc-interval=1h")
            # The policy keeps no version of before.
            policy = {"mount-policy": "wait"}
            process.set_dynakubes(manifest("demo", server.api_url, version=VERSION, annotations=policy))
            process.start()
            try:
                process.await_ready(VERSION)
                ballast = take_all_inodes(process.data.root, 8)
                process.set_dynakubes(manifest("demo", server.api_url, version=OTHER, annotations=policy))
                process.await_ready(OTHER)
                assert process.versions() == [OTHER]
                assert "disk full, unused version removed" in process.log.read_text()
                assert len(os.listdir(ballast)) > 500
            finally:
                process.kill()

    def test_is_named_in_the_condition_where_nothing_can_be_removed(self, tmp_path: Path) -> None:
        with double.Tenant() as server, tmpfs(tmp_path / "data", "nr_inodes=1000"):
            server.release(VERSION, packages.build(tmp_path / "agent.zip"))
            process = Process(tmp_path)
            process.start()
            try:
                eventually(lambda: "provisioner started" in process.log.read_text())
                take_all_inodes(process.data.root, 8)
                process.set_dynakubes(manifest("demo", server.api_url))
                eventually(
                    lambda: "of the disk's 1000 inodes are free" in process.row().get("condition", ""),
                    what=process.log.read_text,
                )
            finally:
                process.kill()
