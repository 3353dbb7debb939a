"""A package is unpacked by a child process, and whatever that does, the provisioner refuses it and goes on."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from oneagent.common import unpack
from oneagent.common.agents import oneagent
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver.provisioner.unpacker import finished_tree
from oneagent.csi_driver.provisioner.unpacker.messages import Existing, PackageContent
from oneagent.csi_driver.provisioner.unpacker.process import UnpackedTree, Unpacker
from tests.fakes import images, packages
from tests.fakes.provisioner import eventually

HOSTILE: Final = """
import json, os, signal, sys, time
request = json.loads(sys.stdin.buffer.readline())
tree = request["tree"]

def answer(**values):
    sys.stdout.write(json.dumps(values) + "\\n")
    sys.stdout.flush()

def links(*lines):
    os.write(request["links"], b"".join(json.dumps(line).encode() + b"\\n" for line in lines))

def size():
    answer(type="Size", unpacked_size=1)
    sys.stdin.buffer.readline()

def unpacked(root=""):
    answer(type="Unpacked", root=root, unpacked_bytes=1)

"""
"""The beginning of a program in the child's place that a package has taken over."""


class Place:
    """Directories for packages and trees, as the installer has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cancelled = threading.Event()
        self.room: list[int] = []
        self.existing: list[Existing] = []
        (root / "manifests").mkdir()

    def unpack(
        self,
        package: PackageContent,
        name: str = "new",
        make_room: Callable[[int], None] | None = None,
        free_bytes: int = 1 << 30,
    ) -> UnpackedTree:
        """Unpack as the installer does; the tree can then be shared."""
        scratch = self.root / name
        unpacked = Unpacker().unpack(
            *(package, scratch, self.existing),
            cancelled=self.cancelled.is_set,
            make_room=make_room or self.room.append,
            free_bytes=free_bytes,
        )
        unpacked.store_manifest(self.manifest(name))
        self.existing.append(Existing(str(unpacked.root), str(self.manifest(name))))
        return unpacked

    def manifest(self, name: str) -> Path:
        return self.root / "manifests" / f"{name}.json"

    def run(self, program: str, *, beginning: str = HOSTILE, max_seconds: float = 20.0) -> UnpackedTree:
        """Unpack by a program in the child's place."""
        package = PackageContent("zip", (packages.build(self.root / "hostile.zip"),))
        unpacker = Unpacker(command=[sys.executable, "-c", beginning + program], max_seconds=max_seconds)
        arguments = package, self.root / "hostile", self.existing
        return unpacker.unpack(*arguments, cancelled=self.cancelled.is_set, make_room=self.room.append)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def zip_of(path: Path, *files: tuple[str, bytes]) -> PackageContent:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        packages.write(archive, oneagent.PRELOAD_LIBRARY, b"library", 0o100755)
        for name, content in files:
            packages.write(archive, name, content)
    return PackageContent("zip", (path,))


def image_of(path: Path, entries: Sequence[images.Entry], how: str = "gzip") -> PackageContent:
    library = images.Entry(oneagent.PRELOAD_LIBRARY, b"library", mode=0o755)
    path.write_bytes(images.compress(images.tar(library, *entries), how))
    return PackageContent("image", (path,))


def is_sound(unpacked: UnpackedTree, manifest: Path) -> bool:
    return file_manifest.verify(unpacked.root, file_manifest.Manifest.load(manifest)) == []


class TestAPackage:
    @pytest.mark.parametrize("prefix", ["", packages.NESTED])
    def test_becomes_a_tree_with_its_manifest(self, place: Place, prefix: str) -> None:
        archive = packages.build(place.root / "agent.zip", prefix=prefix)
        unpacked = place.unpack(PackageContent("zip", (archive,)))
        assert is_sound(unpacked, place.manifest("new"))
        assert (unpacked.root / "agent/bin/current/any/liboneagentjava.so").exists()
        assert unpacked.unpacked_bytes == sum(
            file.stat().st_size for file in unpacked.root.rglob("*") if file.is_file() and "current" not in file.parts
        )
        assert place.room[0] >= unpacked.unpacked_bytes

    def test_may_have_names_of_old_zips(self, place: Place) -> None:
        with zipfile.ZipFile(place.root / "old.zip", "w") as archive:
            packages.write(archive, oneagent.PRELOAD_LIBRARY, b"library")
            info = zipfile.ZipInfo("agent/gr?ss.txt")
            archive.writestr(info, b"x")
        data = (place.root / "old.zip").read_bytes().replace(b"gr?ss", b"gr\x81ss")
        (place.root / "old.zip").write_bytes(data)
        unpacked = place.unpack(PackageContent("zip", (place.root / "old.zip",)))
        assert (unpacked.root / "agent/grüss.txt").exists()

    @pytest.mark.parametrize("how", ["gzip", "zstd", ""])
    def test_may_be_an_image_with_a_layer_twice(self, place: Place, how: str) -> None:
        layers = image_of(place.root / "layer", [images.Entry("agent/a", b"a")], how).files
        unpacked = place.unpack(PackageContent("image", layers * 2))
        assert is_sound(unpacked, place.manifest("new"))

    @pytest.mark.parametrize(("free_bytes", "needed"), [(1 << 30, range(100_000)), (100_000, range(1 << 20, 2 << 20))])
    def test_that_is_an_image_is_written_while_it_is_read_as_far_as_there_is_room(
        self, place: Place, free_bytes: int, needed: range
    ) -> None:
        package = image_of(place.root / "layer", [images.Entry("agent/d/a", bytes(1 << 20))])
        unpacked = place.unpack(package, free_bytes=free_bytes)
        assert place.room[0] in needed
        assert is_sound(unpacked, place.manifest("new"))

    def test_of_a_user_is_read_though_he_alone_may(self, place: Place) -> None:
        archive = packages.build(place.root / "agent.zip")
        os.chown(archive, 1000 if os.geteuid() == 0 else -1, -1)
        archive.chmod(0o400)
        assert is_sound(place.unpack(PackageContent("zip", (archive,))), place.manifest("new"))

    def test_shares_equal_files_by_hard_links(self, place: Place) -> None:
        big = bytes(range(256)) * 8192
        old = place.unpack(zip_of(place.root / "old.zip", ("agent/1/same", big), ("agent/1/other", b"old")), "old")
        files = ("agent/2/same", big), ("agent/2/renamed", big), ("agent/2/other", b"new")
        new = place.unpack(zip_of(place.root / "new.zip", *files))
        assert (new.root / "agent/2/same").samefile(old.root / "agent/1/same")
        assert (new.root / "agent/2/renamed").samefile(old.root / "agent/1/same")
        assert not (new.root / "agent/2/other").samefile(old.root / "agent/1/other")
        assert new.shared_bytes == 2 * len(big) + len(b"library")
        assert is_sound(old, place.manifest("old"))
        assert is_sound(new, place.manifest("new"))

    def test_with_hard_links_of_its_own_has_them(self, place: Place) -> None:
        entries = [images.Entry("agent/a", b"a" * 100), images.hard_link("agent/b", "agent/a")]
        old = place.unpack(image_of(place.root / "layer1", entries), "old")
        new = place.unpack(image_of(place.root / "layer", entries))
        paths = [unpacked.root / name for unpacked in (old, new) for name in ("agent/a", "agent/b")]
        assert len({path.stat().st_ino for path in paths}) == 1
        assert is_sound(new, place.manifest("new"))

    def test_that_cannot_be_linked_is_copied(self, place: Place) -> None:
        old = place.unpack(zip_of(place.root / "old.zip", ("agent/1/same", b"same")), "old")
        shared = old.root / "agent/1/same"
        more = place.root / "more"
        more.mkdir()
        try:
            for number in range(70_000):
                os.link(shared, more / str(number))
        except OSError:
            new = place.unpack(zip_of(place.root / "new.zip", ("agent/2/same", b"same")))
            assert not (new.root / "agent/2/same").samefile(shared)
            assert is_sound(new, place.manifest("new"))
        else:
            pytest.skip("this file system has no such limit")

    def test_is_refused_by_the_same_errors_as_without_a_child(self, place: Place) -> None:
        (place.root / "text").write_bytes(b"no zip" * 100)
        with pytest.raises(unpack.CorruptPackageError, match="not a readable zip"):
            place.unpack(PackageContent("zip", (place.root / "text",)))

    def test_that_does_not_fit_is_not_unpacked(self, place: Place) -> None:
        def refuse(_needed: int) -> None:
            raise NotImplementedError("no room")

        with pytest.raises(NotImplementedError, match="no room"):
            place.unpack(PackageContent("zip", (packages.build(place.root / "agent.zip"),)), make_room=refuse)
        assert list((place.root / "new/tree").iterdir()) == []

    def test_whose_shared_version_goes_meanwhile_is_tried_again(self, place: Place) -> None:
        old = place.unpack(zip_of(place.root / "old.zip", ("agent/1/same", b"same")), "old")
        program = f'size(); links(["agent", "{old.root}", "agent/1/gone"]); unpacked()'
        with pytest.raises(unpack.UnpackFailedError, match="a version was removed") as failure:
            place.run(program)
        assert failure.value.errno not in (None, 2, 5)

    def test_is_given_up_at_once_when_the_install_is_cancelled(self, place: Place) -> None:
        timer = threading.Timer(0.3, place.cancelled.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(unpack.UnpackCancelledError):
            place.run("time.sleep(60)")
        assert time.monotonic() - started < 20


class TestManyEntries:
    def test_fit_into_the_memory_limit(self, place: Place) -> None:
        directory = "agent/" + "a-long-name-of-a-directory/" * 3
        files = [(f"{directory}{number % 50}/file-{number:06d}.txt", b"x") for number in range(10_000)]
        old = place.unpack(zip_of(place.root / "old.zip", *files), "old")
        new = place.unpack(zip_of(place.root / "new.zip", *files))
        assert new.shared_bytes == old.unpacked_bytes

    def test_leave_no_memory_with_the_provisioner(self, place: Place) -> None:
        files = [(f"agent/{number % 50}/file-{number:06d}.txt", b"x") for number in range(5_000)]
        package = zip_of(place.root / "old.zip", *files)
        place.unpack(package, "first")
        before = peak_bytes()
        for name in ("second", "third"):
            place.unpack(package, name)
        assert peak_bytes() - before < 3 << 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class TestAChildThatFails:
    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9, Killed"),
            ("size(); os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
            ("os.kill(os.getpid(), signal.SIGXCPU)", "more CPU time"),
            ("sys.exit(3)", "exit code 3"),
            ("raise RuntimeError('\\x1b[31m of no\\u202ekind')", "RuntimeError:"),
            ("print('\\x1b[31mgarbage')", "garbage"),
            ("print('[' * 20_000)", "exit code 0, …[["),
            ("print('x' * 100_000)", "it wrote too much"),
            ("sys.stdout.write('x' * 100_000); sys.stdout.flush(); time.sleep(9)", "it wrote too much"),
            ("unpacked()", "wrong order"),
            ("answer(type='Size', unpacked_size=-1)", "exit code 0"),
            ("answer(type='Size', unpacked_size=1 << 60)", "exit code 0"),
            ("answer(type='Failure', error='UnpackCancelledError', message='as if')", "as if"),
            ("answer(type='Failure', error='SystemExit', message='as if')", "as if"),
            ("size(); unpacked(); sys.exit(1)", "exit code 1"),
        ],
    )
    def test_is_an_error_of_the_package_in_one_line(self, place: Place, program: str, reason: str) -> None:
        with pytest.raises(unpack.UnpackProcessError) as failure:
            place.run(program)
        text = str(failure.value)
        assert reason in text
        assert text.isprintable()
        assert len(text) < 700

    def test_is_ended_after_its_time(self, place: Place) -> None:
        with pytest.raises(unpack.UnpackProcessError, match="too long"):
            place.run("time.sleep(60)", max_seconds=1)

    def test_cannot_stay_after_its_answer(self, place: Place) -> None:
        with pytest.raises(unpack.UnpackProcessError, match="too long"):
            place.run("size(); unpacked(); time.sleep(60)", max_seconds=2)

    @pytest.mark.parametrize(
        ("program", "kind", "reason"),
        [
            ("list(range(1 << 40))", unpack.PackageTooLargeError, "more than 128 MiB of memory"),
            ("(lambda f: f(f))(lambda f: f(f))", unpack.UnpackProcessError, "RecursionError"),
            ("os.abort()", unpack.UnpackProcessError, "signal"),
        ],
    )
    def test_by_what_it_reads_is_refused(
        self, place: Place, program: str, kind: type[unpack.PackageError], reason: str
    ) -> None:
        taken_over = f"""
import os, sys
from oneagent.csi_driver.provisioner.unpacker import child
child.zip.read = lambda file: {program}
os._exit(child.main())
"""
        with pytest.raises(kind, match=reason):
            place.run(taken_over, beginning="")

    def test_leaves_no_process(self, place: Place) -> None:
        with pytest.raises(unpack.UnpackProcessError):
            place.run("time.sleep(60)", max_seconds=0.2)
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
        assert not [child for child in children.split() if b"hostile" in Path(f"/proc/{child}/cmdline").read_bytes()]


class TestATreeThatAChildLeaves:
    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            ("os.symlink('/etc', f'{tree}/opt'); size(); unpacked('opt/dynatrace/oneagent')", "No such file|link"),
            (
                "os.makedirs(f'{tree}/real/dynatrace/oneagent'); os.symlink('real', f'{tree}/opt')\n"
                "size(); unpacked('opt/dynatrace/oneagent')",
                "a link or a file",
            ),
            ("size(); unpacked('../elsewhere')", "another directory"),
            ("os.mkfifo(f'{tree}/pipe'); size(); unpacked()", "a pipe"),
            ("open(f'{tree}/x', 'w'); os.chmod(f'{tree}/x', 0o4755); size(); unpacked()", "set-uid"),
            ("os.makedirs(tree + '/d' * 100); size(); unpacked()", "levels"),
            ("open(f'{tree}/x', 'w'); size(); links(['../x', '', 'x']); unpacked()", "a link can't be made"),
            ("size(); links(['y', '', 'gone']); unpacked()", "leads to no file"),
            ("open(f'{tree}/x', 'w'); size(); links(['y', '', '../links']); unpacked()", "leads to no file"),
            ("open(f'{tree}/x', 'w'); size(); links(['x', '', 'x']); unpacked()", "a link can't be made"),
            ("open(f'{tree}/x', 'w'); size(); links(['..', '', 'x']); unpacked()", "a link can't be made"),
            ("open(f'{tree}/x', 'w'); size(); links(['a\\0b', '', 'x']); unpacked()", "a link can't be made"),
            ("os.symlink('/etc/passwd', f'{tree}/s'); size(); links(['y', '', 's']); unpacked()", "leads to no file"),
            ("os.mkdir(f'{tree}/d'); size(); links(['y', '', 'd']); unpacked()", "leads to no file"),
            ("size(); links(['y', '/etc', 'passwd']); unpacked()", "names another tree"),
            ("size(); os.write(request['links'], b'[' * 100_000); unpacked()", "can't be read"),
            ("size(); links(['y']); unpacked()", "can't be read"),
        ],
    )
    def test_is_refused(self, place: Place, program: str, reason: str) -> None:
        with pytest.raises((unpack.PackageError, OSError), match=reason):
            place.run(program)
        assert not (place.root / "x").exists()

    def test_with_too_many_entries_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert finished_tree.MAX_ENTRIES == 100_000
        monkeypatch.setattr(finished_tree, "MAX_ENTRIES", 1000)
        for directory in ("a", "b"):
            (tmp_path / directory).mkdir()
            for number in range(499):
                (tmp_path / directory / str(number)).touch()
        finished_tree.check(tmp_path, tmp_path)
        for number in range(3):
            (tmp_path / directory / f"more{number}").touch()
        with pytest.raises(unpack.UnpackProcessError, match="more than 1,000 entries"):
            finished_tree.check(tmp_path, tmp_path)

    def test_writes_through_no_directory_that_was_replaced_by_a_link(self, place: Place) -> None:
        program = """
os.mkdir(f"{tree}/d"); open(f"{tree}/x", "w")
os.symlink("..", f"{tree}/up"); size(); links(["up/../escaped", "", "x"]); unpacked()
"""
        with pytest.raises(unpack.UnpackProcessError, match="can't be made"):
            place.run(program)
        assert not list(place.root.rglob("escaped"))

    def test_with_a_huge_manifest_is_refused(self, place: Place) -> None:
        with pytest.raises(unpack.PackageTooLargeError, match="file manifest"):
            place.run("size(); os.truncate(request['manifest'], 33 << 20); unpacked()")


def test_a_killed_child_is_an_error_at_once(place: Place) -> None:
    result: list[Exception] = []

    def run() -> None:
        try:
            place.run("open(f'{tree}/begun', 'w'); size(); time.sleep(60)")
        except unpack.UnpackProcessError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: place.room)
    children = Path(f"/proc/self/task/{thread.native_id}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    thread.join(20)
    assert [str(error) for error in result] == ["the process that unpacks the package failed: signal 9, Killed"]
