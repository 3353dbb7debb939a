"""Equal files of a new version and an installed one are linked, and only those."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common.agents import oneagent
from oneagent.common.unpack import CorruptPackageError, UnsupportedPackageError, dedup, file_manifest, image, zip
from oneagent.common.unpack.file_manifest import Manifest
from tests.fakes import images as layers
from tests.unit.common.unpack import archives

MIB = 1 << 20
BIG = bytes(range(256)) * (3 * MIB // 256)
OLD, NEW = "agent/bin/1.2.3.4-5/any", "agent/bin/1.2.3.4-6/any"


def package(path: Path, **files: bytes | tuple[bytes, int]) -> Path:
    """An agent with some files in its version's folder; `__` stands for `/`."""
    entries = [(oneagent.PRELOAD_LIBRARY, b"library", 0o100755)]
    for name, given_ in files.items():
        content, mode = given_ if isinstance(given_, tuple) else (given_, 0o100644)
        entries.append((f"{NEW if path.stem == 'new' else OLD}/{name.replace('__', '/')}", content, mode))
    return archives.of(path, *entries)


class Store:
    """An old version on the disk, and the way to unpack a new one beside it."""

    def __init__(self, place: Path, **files: bytes | tuple[bytes, int]) -> None:
        self.place = place
        self.old = place / "old"
        self.manifest = zip.unpack_agent(package(place / "old.zip", **files), self.old).manifest
        self.present = dedup.ExistingFiles([(self.old, self.manifest)])
        self.new = place / "new"

    def add(self, archive: Path) -> Manifest:
        """Unpack the new version; it is what its package says, whatever it shares."""
        found = zip.unpack_agent(archive, self.new, existing=self.present)
        assert file_manifest.verify(self.new, found.manifest) == []
        with zipfile.ZipFile(archive) as archive_file:
            for info in archive_file.infolist():
                assert (self.new / info.filename).read_bytes() == archive_file.read(info)
        return found.manifest

    def shared(self) -> set[str]:
        """The names of files that the new version has in common with the old one."""
        old = {path.stat().st_ino for path in self.old.rglob("*") if path.is_file()}
        return {path.name for path in self.new.rglob("*") if path.is_file() and path.stat().st_ino in old}

    def is_intact(self) -> bool:
        return file_manifest.verify(self.old, self.manifest) == []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


class TestAFile:
    def test_that_is_equal_is_stored_once_though_its_folder_has_another_name(self, place: Path) -> None:
        store = Store(place, same=BIG, other=b"old", empty=b"")
        store.add(package(place / "new.zip", same=BIG, other=b"new", empty=b""))
        assert store.shared() == {"same", "empty", "liboneagentproc.so"}
        assert store.present.shared_bytes == len(BIG) + len(b"library")
        assert store.is_intact()

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_is_shared_however_it_is_packed(self, place: Path, compression: int) -> None:
        store = Store(place, same=BIG)
        archive = package(place / "new.zip")
        with zipfile.ZipFile(archive, "a") as opened:
            info = zipfile.ZipInfo(f"{NEW}/same")
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, compression
            opened.writestr(info, BIG)
        store.add(archive)
        assert "same" in store.shared()

    @pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB + 5, len(BIG) - 1])
    def test_that_differs_in_one_byte_is_written(self, place: Path, at: int) -> None:
        store = Store(place, almost=BIG)
        content = BIG[:at] + bytes([BIG[at] ^ 1]) + BIG[at + 1 :]
        store.add(package(place / "new.zip", almost=content))
        assert "almost" not in store.shared()
        assert store.is_intact()

    @pytest.mark.parametrize("at", [0, MIB, len(BIG) - 1])
    def test_is_not_linked_to_one_that_was_damaged(self, place: Path, at: int) -> None:
        store = Store(place, same=BIG)
        with (store.old / OLD / "same").open("r+b") as file:
            file.seek(at)
            file.write(bytes([BIG[at] ^ 1]))
        store.add(package(place / "new.zip", same=BIG))
        assert store.shared() == {"liboneagentproc.so"}

    def test_with_other_permissions_is_written(self, place: Path) -> None:
        store = Store(place, tool=b"#!/bin/sh\n" * 10)
        store.add(package(place / "new.zip", tool=(b"#!/bin/sh\n" * 10, 0o100755)))
        assert "tool" not in store.shared()
        assert store.is_intact()

    def test_that_has_another_name_now_is_linked_too(self, place: Path) -> None:
        store = Store(place, before=BIG)
        store.add(package(place / "new.zip", after=BIG))
        assert "after" in store.shared()
        assert sorted(path.name for path in store.new.iterdir()) == ["agent"]

    def test_of_several_of_its_name_is_compared_with_the_one_in_the_same_folder(self, place: Path) -> None:
        store = Store(place, musl__lib=BIG, glibc__lib=BIG[::-1])
        asked = store.present.find_similar(f"opt/{NEW}/glibc/lib", len(BIG), 0o644)
        assert asked is not None
        assert asked.file.path == f"{OLD}/glibc/lib"
        store.add(package(place / "new.zip", musl__lib=BIG, glibc__lib=BIG[::-1]))
        assert (store.new / NEW / "glibc/lib").samefile(store.old / OLD / "glibc/lib")
        assert (store.new / NEW / "musl/lib").samefile(store.old / OLD / "musl/lib")


class TestAnImage:
    @pytest.mark.parametrize("how", ["gzip", "zstd", ""])
    def test_shares_with_a_version_that_came_as_a_zip(self, place: Path, how: str) -> None:
        store = Store(place, same=BIG, almost=BIG, other=b"old")
        entries = [
            layers.Entry(oneagent.PRELOAD_LIBRARY, b"library", mode=0o755),
            layers.Entry(f"{NEW}/same", BIG),
            layers.hard_link(f"{NEW}/same2", f"{NEW}/same"),
            layers.Entry(f"{NEW}/almost", BIG[:-1] + b"!"),
            layers.Entry(f"{NEW}/other", b"new"),
        ]
        layer = place / "layer"
        layer.write_bytes(layers.compress(layers.tar(*entries), how))
        found = image.read([layer]).unpack(store.new, existing=store.present)
        assert file_manifest.verify(found.root, found.manifest) == []
        assert (store.new / NEW / "almost").read_bytes() == BIG[:-1] + b"!"
        assert store.shared() == {"same", "same2", "liboneagentproc.so"}
        assert store.is_intact()


class TestADeferredLink:
    """Made by another process: here the list says what it would be, and the existing files stay untouched."""

    def test_of_an_equal_file_has_its_source_and_no_file(self, place: Path) -> None:
        store = Store(place, same=BIG, before=BIG[::-1])
        store.present.deferred = links = dedup.DeferredLinks()
        archive = package(place / "new.zip", same=BIG, after=BIG[::-1], other=b"new")
        found = zip.unpack_agent(archive, store.new, existing=store.present)
        found.make_durable()
        assert links.of == {
            oneagent.PRELOAD_LIBRARY: (store.old, oneagent.PRELOAD_LIBRARY),
            f"{NEW}/same": (store.old, f"{OLD}/same"),
            f"{NEW}/after": (store.old, f"{OLD}/before"),
        }
        assert {finding.path for finding in file_manifest.verify(store.new, found.manifest)} == set(links.of)
        assert store.present.shared_bytes == 2 * len(BIG) + len(b"library")

    def test_of_a_hard_link_is_one_to_the_new_tree(self, place: Path) -> None:
        store = Store(place, same=BIG)
        store.present.deferred = links = dedup.DeferredLinks()
        entries = [
            layers.Entry(f"{NEW}/first", b"library"),
            layers.hard_link(oneagent.PRELOAD_LIBRARY, f"{NEW}/first"),
            layers.Entry(f"{NEW}/same", BIG),
            layers.hard_link(f"{NEW}/same2", f"{NEW}/same"),
        ]
        layer = place / "layer"
        layer.write_bytes(layers.tar(*entries))
        image.read([layer]).unpack(store.new, existing=store.present)
        assert {links.find_origin(f"{NEW}/{name}") for name in ("same", "same2")} == {(store.old, f"{OLD}/same")}
        names = {oneagent.PRELOAD_LIBRARY, f"{NEW}/first"}
        [written] = [name for name in names if (store.new / name).exists()]
        [linked] = names - {written}
        assert links.of[linked] == (None, written)

    def test_to_a_library_for_another_machine_is_refused_all_the_same(self, place: Path) -> None:
        store = Store(place)
        store.present.deferred = dedup.DeferredLinks()
        wrong = b"\x7fELF\x01\x01\x01" + bytes(11) + b"\x03\x00" + bytes(20)
        library = store.old / oneagent.PRELOAD_LIBRARY
        library.chmod(0o755)
        library.write_bytes(wrong)
        file = file_manifest.File(oneagent.PRELOAD_LIBRARY, len(wrong), 0o755, hashlib.sha256(wrong).hexdigest())
        store.present = dedup.ExistingFiles([(store.old, Manifest([file], [], []))], dedup.DeferredLinks())
        archive = archives.of(place / "new.zip", (oneagent.PRELOAD_LIBRARY, wrong, 0o100755))
        with pytest.raises(UnsupportedPackageError, match="is for machine"):
            zip.unpack_agent(archive, store.new, existing=store.present)


class TestAVersionThatIsThere:
    def test_that_is_collected_meanwhile_is_done_without(self, place: Path) -> None:
        store = Store(place, same=BIG, more=BIG[::-1])
        shutil.rmtree(store.old)
        store.add(package(place / "new.zip", same=BIG, more=BIG[::-1]))

    def test_may_go_afterwards(self, place: Path) -> None:
        store = Store(place, same=BIG)
        manifest = store.add(package(place / "new.zip", same=BIG))
        shutil.rmtree(store.old)
        assert file_manifest.verify(store.new, manifest) == []

    @pytest.mark.parametrize("instead", ["link", "pipe", "chmod", "shorter"])
    def test_that_somebody_has_changed_is_not_shared(self, place: Path, instead: str) -> None:
        store = Store(place, same=BIG)
        file = store.old / OLD / "same"
        if instead == "chmod":
            file.chmod(0o4755)
        elif instead == "shorter":
            os.truncate(file, 5)
        else:
            file.unlink()
            file.symlink_to("/etc/passwd") if instead == "link" else os.mkfifo(file)
        store.add(package(place / "new.zip", same=BIG))
        assert "same" not in store.shared()

    def test_with_a_file_that_cannot_be_read_is_done_without(self, place: Path) -> None:
        loopback = Path("/sys/class/net/lo")  # It has no speed, and its file says so by an error of read(2).
        with pytest.raises(OSError, match="Invalid argument"):
            (loopback / "speed").read_bytes()
        unreadable = file_manifest.File("speed", (loopback / "speed").stat().st_size, 0o444, "0" * 64)
        store = Store(place)
        store.present = dedup.ExistingFiles([(loopback, Manifest([unreadable], [], []))])
        store.add(package(place / "new.zip", speed=(b"x" * unreadable.size, 0o100444)))

    def test_is_untouched_by_a_package_that_turns_out_to_be_damaged(self, place: Path) -> None:
        store = Store(place, same=BIG, zzz=b"x" * 100)
        archive = package(place / "new.zip", same=BIG, zzz=b"x" * 100)
        archives.patched(archive, b"PK\x01\x02", 16, b"\1\2\3\4")
        archives.patched(archive, b"PK\x03\x04", 14, b"\1\2\3\4")
        with pytest.raises(CorruptPackageError, match="checksum"):
            zip.unpack_agent(archive, store.new, existing=store.present)
        assert list(store.new.iterdir()) == []
        assert store.is_intact()

    def test_on_another_file_system_is_copied_from(self, place: Path) -> None:
        elsewhere = Path("/dev/shm")
        if not elsewhere.is_dir() or elsewhere.stat().st_dev == place.stat().st_dev:
            pytest.skip("there is no second file system")
        with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
            store = Store(Path(folder), same=BIG, almost=BIG)
            store.new = place / "new"
            store.add(package(place / "new.zip", same=BIG, almost=BIG[:-1] + b"\0"))
            assert store.present.shared_bytes == 0

    def test_serves_several_threads_at_once(self, place: Path) -> None:
        files = {f"file{number}": bytes([number]) * 50_000 for number in range(60)}
        store = Store(place, **files)
        found = zip.unpack_agent(package(place / "new.zip", **files), store.new, threads=8, existing=store.present)
        assert file_manifest.verify(store.new, found.manifest) == []
        assert store.present.shared_bytes == 60 * 50_000 + len(b"library")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("unpack")]


CONTENTS = {"-": b"", "a": b"a", "b": b"b", "A": b"a" * 5000, "B": b"a" * 4999 + b"b", "0": bytes(9000)}
FILES = st.dictionaries(st.sampled_from(["x", "y", "d__x", "d__y", "e__x"]), st.sampled_from(sorted(CONTENTS)))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@given(old=FILES, new=FILES)
@settings(max_examples=40, deadline=None)
def test_any_two_versions_are_both_what_their_packages_say(
    folder: Path, old: dict[str, str], new: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        store = Store(Path(made), **{name: CONTENTS[which] for name, which in old.items()})
        store.add(package(Path(made) / "new.zip", **{name: CONTENTS[which] for name, which in new.items()}))
        assert store.is_intact()
        known = [CONTENTS[which] for which in new.values() if which in old.values()]
        assert store.present.shared_bytes == sum(map(len, known)) + len(b"library")
