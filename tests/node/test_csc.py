"""What an engineer sees who talks to the driver with `csc`, the command line client for CSI.

Its output is made of the answers' fields and nothing else, and its exit code is the gRPC status, so these
tests hold the driver to answers that other programs can use.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import grpc
import pytest

from oneagent.common import identifiers
from tests.node import upstream

CONTEXT: Final = ",".join(f"{key}={value}" for key, value in upstream.POD_CONTEXT.items())
MOUNT: Final = ("--cap", "SINGLE_NODE_WRITER,mount,")  # The comma ends an empty type of file system.
BLOCK: Final = ("--cap", "SINGLE_NODE_WRITER,block")


@dataclass(frozen=True)
class Answer:
    exit_code: int
    lines: list[str]
    error: str


Csc = Callable[..., Answer]


@pytest.fixture
def program() -> Path:
    return upstream.program("csc")


@pytest.fixture
def csc(program: Path, driver: upstream.Driver) -> Csc:
    def call(*arguments: str | Path) -> Answer:
        finished = subprocess.run(
            [program, "--endpoint", f"unix://{driver.socket}", "--timeout", "20s", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return Answer(finished.returncode, finished.stdout.splitlines(), finished.stderr)

    return call


@pytest.fixture
def volume() -> str:
    return f"csi-{uuid.uuid4().hex}"


@pytest.fixture
def target(driver: upstream.Driver, volume: str) -> Path:
    """A path as kubelet leaves it to the driver: the parent is there, the target is not."""
    parent = driver.target_root / volume
    parent.mkdir()
    return parent / "mount"


@pytest.fixture
def published(csc: Csc, volume: str, target: Path) -> Iterator[str]:
    """The id of a volume that is published at `target`."""
    assert publish(csc, volume, target) == succeeded(volume)
    yield volume
    assert csc("node", "unpublish", "--target-path", target, volume) == succeeded(volume)


def publish(csc: Csc, volume: str, target: Path) -> Answer:
    return csc("node", "publish", *MOUNT, "--target-path", target, "--vol-context", CONTEXT, volume)


def succeeded(*lines: str) -> Answer:
    return Answer(0, list(lines), "")


def status(answer: Answer) -> grpc.StatusCode:
    """The gRPC status that an exit code stands for."""
    return next(code for code in grpc.StatusCode if code.value[0] == answer.exit_code)


class TestTheIdentity:
    def test_plugin_info_is_the_drivers_name_and_the_distributions_version(self, csc: Csc) -> None:
        answer = csc("identity", "plugin-info")
        assert answer.exit_code == 0
        name, version = answer.lines[0].split("\t")[:2]
        assert name == f'"{identifiers.DRIVER_NAME}"'
        assert version == f'"{metadata.version(identifiers.DISTRIBUTION)}"'

    def test_there_is_no_plugin_capability_and_so_no_controller(self, csc: Csc) -> None:
        assert csc("identity", "plugin-capabilities") == succeeded()

    def test_probe_says_in_so_many_words_that_the_driver_is_ready(self, csc: Csc) -> None:
        assert csc("identity", "probe") == succeeded("true")


class TestTheNode:
    def test_info_is_the_node_id_with_no_limit_of_volumes_and_no_topology(self, csc: Csc) -> None:
        assert csc("node", "get-info") == succeeded("node1\t0\t(*csi.Topology)(nil)")

    def test_volume_statistics_are_a_capability(self, csc: Csc) -> None:
        answer = csc("node", "get-capabilities")
        assert answer.exit_code == 0
        assert "&{type:GET_VOLUME_STATS}" in answer.lines

    @pytest.mark.parametrize(
        "command",
        [
            ("stage", *MOUNT, "--staging-target-path", "/staging"),
            ("unstage", "--staging-target-path", "/staging"),
            ("expand",),
        ],
        ids=lambda command: command[0],
    )
    def test_what_it_does_not_offer_is_unimplemented(self, csc: Csc, volume: str, command: tuple[str, ...]) -> None:
        path = ["/target"] if command == ("expand",) else []
        assert status(csc("node", *command, volume, *path)) is grpc.StatusCode.UNIMPLEMENTED


class TestAVolume:
    def test_is_mounted_by_publish_and_gone_after_unpublish(self, csc: Csc, volume: str, target: Path) -> None:
        assert publish(csc, volume, target) == succeeded(volume)
        assert target.is_mount()
        assert csc("node", "unpublish", "--target-path", target, volume) == succeeded(volume)
        assert not target.exists()
        assert target.parent.exists(), "kubelet's own folder is not the driver's to remove"

    def test_can_be_published_again_without_a_second_mount(self, csc: Csc, published: str, target: Path) -> None:
        assert publish(csc, published, target) == succeeded(published)
        mounted_at = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert mounted_at.count(str(target)) == 1

    def test_has_statistics_in_bytes_and_in_inodes(self, csc: Csc, published: str, target: Path) -> None:
        answer = csc("node", "stats", f"{published}:{target}")
        assert answer.exit_code == 0
        in_bytes, in_inodes = (line.split("\t") for line in answer.lines)
        assert in_bytes[:2] == [published, str(target)]
        assert in_bytes[-1] == "BYTES"
        assert in_inodes[-1] == "INODES"
        for _available, total, used in (in_bytes[2:5], in_inodes[:3]):
            assert 0 <= int(used) <= int(total)

    def test_that_was_never_published_can_be_unpublished(self, csc: Csc, volume: str, target: Path) -> None:
        assert csc("node", "unpublish", "--target-path", target, volume) == succeeded(volume)


class TestARefusal:
    def test_names_a_missing_target_path(self, csc: Csc, volume: str) -> None:
        answer = csc("node", "publish", *MOUNT, "--vol-context", CONTEXT, volume)
        assert status(answer) is grpc.StatusCode.INVALID_ARGUMENT
        assert "target_path" in answer.error

    def test_names_a_missing_capability(self, csc: Csc, volume: str, target: Path) -> None:
        answer = csc("node", "publish", "--target-path", target, "--vol-context", CONTEXT, volume)
        assert status(answer) is grpc.StatusCode.INVALID_ARGUMENT
        assert "volume_capability" in answer.error

    def test_is_what_a_block_volume_gets(self, csc: Csc, volume: str, target: Path) -> None:
        answer = csc("node", "publish", *BLOCK, "--target-path", target, "--vol-context", CONTEXT, volume)
        assert status(answer) is grpc.StatusCode.INVALID_ARGUMENT
        assert not target.exists()

    def test_is_what_a_target_outside_of_kubelets_folder_gets(self, csc: Csc, volume: str, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        assert status(publish(csc, volume, outside)) is grpc.StatusCode.INVALID_ARGUMENT
        assert not outside.exists()

    def test_is_what_a_second_volume_gets_at_a_taken_target(self, csc: Csc, published: str, target: Path) -> None:
        answer = publish(csc, f"{published}-other", target)
        assert status(answer) is grpc.StatusCode.ALREADY_EXISTS
        assert target.is_mount()

    def test_is_what_an_unpublish_without_a_target_path_gets(self, csc: Csc, volume: str) -> None:
        assert status(csc("node", "unpublish", volume)) is grpc.StatusCode.INVALID_ARGUMENT

    def test_says_that_an_unknown_volume_has_no_statistics(self, csc: Csc, volume: str, target: Path) -> None:
        answer = csc("node", "stats", f"{volume}:{target}")
        assert status(answer) is grpc.StatusCode.NOT_FOUND

    def test_says_that_a_volume_has_no_statistics_elsewhere(self, csc: Csc, published: str, target: Path) -> None:
        answer = csc("node", "stats", f"{published}:{target.parent}")
        assert status(answer) is grpc.StatusCode.NOT_FOUND
