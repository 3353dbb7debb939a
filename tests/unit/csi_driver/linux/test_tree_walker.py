"""Trees that pods wrote are walked and removed in bounded memory, and nothing outside of them is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oneagent.csi_driver.linux import disk_usage, tree_walker
from tests.fakes import pod_trees

IN_LITTLE_MEMORY = """
import resource, sys
from oneagent.csi_driver.linux import disk_usage, tree_walker
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
sys.setrecursionlimit(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
usage = disk_usage.measure(sys.argv[1])
tree_walker.remove(sys.argv[1])
print(usage.complete, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


def measure_and_remove(tree: Path) -> tuple[str, int]:
    """Return whether all was measured, and by how many KiB a process with 16 descriptors grew."""
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(tree)]
    complete, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not tree.exists()
    return complete, int(grown)


def test_each_entry_is_met_once_with_what_contains_it(tree: Path) -> None:
    for directory in ("a", "a/b", "c"):
        (tree / directory).mkdir()
    for file in ("1", "a/2", "a/b/3", "c/4"):
        (tree / file).write_bytes(bytes(5000))
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "fifo")
    met = [status.st_ino for status, complete in tree_walker.entries(tree) if complete]
    assert sorted(met) == sorted(path.lstat().st_ino for path in (tree, *tree.rglob("*")))


@pytest.mark.parametrize("present", [False, True])
def test_what_is_no_directory_is_itself(tmp_path: Path, present: bool) -> None:
    place = tmp_path / "file"
    if present:
        place.write_text("x")
    assert len(list(tree_walker.entries(place))) == present
    assert bool(tree_walker.remove(place)) is present
    assert not place.exists()


def test_a_deep_tree_takes_no_memory_no_descriptors_and_no_recursion(tree: Path) -> None:
    pod_trees.write_deep(tree, 10_000)
    complete, grown = measure_and_remove(tree)
    assert complete == "True"
    assert grown < 8 << 10


def test_a_tree_of_any_depth_is_removed_though_only_its_upper_levels_are_measured(tree: Path) -> None:
    for name in ("0", "2"):
        (tree / name).write_text("in the way of what is moved up")
    (tree / "1").mkdir()
    pod_trees.write_deep(tree / "1", tree_walker.MAX_LEVELS + 3_000, name="x" * 200)
    complete, grown = measure_and_remove(tree)
    assert complete == "False"
    assert grown < 16 << 10


def test_a_wide_tree_takes_no_memory(tree: Path) -> None:
    pod_trees.write_wide(tree, 50_000)
    complete, grown = measure_and_remove(tree)
    assert complete == "True"
    assert grown < 1 << 10


def test_many_wide_levels_take_no_memory(tree: Path) -> None:
    """Each directory has files before and after the one that leads on."""
    here = tree
    for _ in range(15):
        pod_trees.write_wide(here, 500)
        here /= "down"
        here.mkdir()
    assert measure_and_remove(tree)[1] < 1 << 10


def test_hard_links_count_their_share(tree: Path) -> None:
    (tree / "one").write_bytes(bytes(1 << 20))
    for number in range(9):
        os.link(tree / "one", tree / str(number))
    size, complete = disk_usage.measure(tree)
    assert complete
    assert 0 <= size - (1 << 20) < 64 << 10


def test_no_link_is_followed_and_the_freed_bytes_are_told(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("precious")
    (tree / "directory").symlink_to(tmp_path / "outside")
    (tree / "file").symlink_to(tmp_path / "outside/file")
    os.link(tmp_path / "outside/file", tree / "hard")
    (tree / "own").write_bytes(bytes(1 << 20))
    assert 1 << 20 <= tree_walker.remove(tree) < 2 << 20
    assert (tmp_path / "outside/file").read_text() == "precious"


def test_a_walk_ends_where_its_directory_is_moved_out(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").write_text("x")
    (tree / "in/deeper").mkdir(parents=True)
    (tree / "in/deeper/file").write_text("x")

    def move() -> None:
        (tree / "in/deeper").rename(tmp_path / "elsewhere/deeper")

    with pytest.raises(OSError, match="was moved"):
        tree_walker.remove(tree / "in", on_file=move)
    assert (tmp_path / "elsewhere/precious").exists()


class TestAFileOfAPod:
    def test_is_read_up_to_a_length(self, tree: Path) -> None:
        (tree / "in").mkdir()
        (tree / "in/file").write_bytes(b"0123456789")
        assert tree_walker.read_file(str(tree), "in/file", 4) == b"0123"

    @pytest.mark.parametrize("kind", ["fifo", "directory", "link", "link above", "missing", "device"])
    def test_is_never_opened_unless_it_is_regular(self, tree: Path, tmp_path: Path, kind: str) -> None:
        (tmp_path / "secret").write_text("secret")
        (tree / "in").mkdir()
        place = tree / "in/file"
        match kind:
            case "fifo":
                os.mkfifo(place)
            case "directory":
                place.mkdir()
            case "link":
                place.symlink_to(tmp_path / "secret")
            case "link above":
                (tree / "in").rmdir()
                (tmp_path / "real").mkdir()
                (tmp_path / "real/file").write_text("x")
                (tree / "in").symlink_to(tmp_path / "real")
            case "device":
                try:
                    os.mknod(place, 0o666 | 0o020000, os.makedev(1, 3))
                except PermissionError:
                    pytest.skip("only root makes devices")
            case _:
                pass
        with pytest.raises(OSError, match=r"regular|symbolic|No such"):
            tree_walker.read_file(str(tree), "in/file", 100)


def test_descriptors_are_all_closed(tree: Path) -> None:
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    before = os.listdir("/proc/self/fd")
    for steps in range(5):
        below = tree_walker.entries(tree)
        for _ in range(steps):
            next(below, None)
        del below
    tree_walker.remove(tree)
    assert os.listdir("/proc/self/fd") == before
