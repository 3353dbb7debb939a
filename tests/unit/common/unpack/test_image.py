"""Layers come to one tree, as an overlay of them would show it, and only the agent of it is written."""

from __future__ import annotations

import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from oneagent.common import unpack
from oneagent.common.agents import oneagent
from oneagent.common.unpack import agent_layout, early_files, file_manifest, image
from tests.fakes import images as fakes
from tests.fakes import packages as agents
from tests.fakes.images import MINIMAL, Entry, directory, hard_link, link, opaque, whiteout

P = agents.NESTED


def blobs(place: Path, *layers: list[Entry], how: str = "gzip") -> list[Path]:
    paths = []
    for number, entries in enumerate(layers):
        path = place / f"layer{number}"
        path.write_bytes(fakes.compress(fakes.tar(*entries), how))
        paths.append(path)
    return paths


def unpacked(place: Path, *layers: list[Entry], how: str = "gzip") -> dict[str, bytes]:
    """All files of the agent, by path; the tree is as its manifest says, and the same with early files."""
    found = image.read(blobs(place, *layers, how=how)).unpack(place / "tree")
    assert file_manifest.verify(found.root, found.manifest) == []
    assert found.root == place / "tree"
    early = early_files.EarlyFiles(place / "early", 1 << 30)
    early.tree.mkdir()
    same = image.read(blobs(place, *layers, how=how), early=early).unpack(early.tree)
    assert file_manifest.verify(same.root, found.manifest) == []
    assert same.manifest == found.manifest
    return {file.path: (found.root / file.path).read_bytes() for file in found.manifest.files}


@pytest.mark.parametrize("how", ["gzip", "zstd", ""])
@pytest.mark.parametrize("prefix", [P, "", f"./{P}"])
def test_an_agent_is_the_same_however_it_is_packed_and_wherever_it_lies(tmp_path: Path, how: str, prefix: str) -> None:
    entries = fakes.agent(prefix=prefix, filler=600_000)
    found = unpacked(tmp_path, entries, how=how)
    assert found == {
        entry.name.removeprefix(prefix): entry.content for entry in entries if entry.kind == tarfile.REGTYPE
    }
    assert os.readlink(tmp_path / "tree" / agent_layout.CURRENT) == agents.VERSION
    assert (tmp_path / "tree" / oneagent.PRELOAD_LIBRARY).stat().st_mode & 0o7777 == 0o755


def test_modes_are_those_of_a_zip_s_files(tmp_path: Path) -> None:
    unpacked(tmp_path, [MINIMAL, Entry(f"{P}a", mode=0o4777), Entry(f"{P}b", mode=0o600), directory(f"{P}c", 0o700)])
    modes = {name: (tmp_path / "tree" / name).stat().st_mode & 0o7777 for name in "abc"}
    assert modes == {"a": 0o755, "b": 0o644, "c": file_manifest.DIRECTORY_MODE}


class TestALayer:
    def test_replaces_files_folders_and_links_of_those_below(self, tmp_path: Path) -> None:
        below = [
            MINIMAL,
            Entry(f"{P}file", b"old"),
            directory(f"{P}folder"),
            Entry(f"{P}folder/x"),
            link(f"{P}l", "file"),
        ]
        above = [Entry(f"{P}file", b"new"), Entry(f"{P}folder", b"now a file"), directory(f"{P}l"), Entry(f"{P}l/y")]
        found = unpacked(tmp_path, below, above)
        assert found == {oneagent.PRELOAD_LIBRARY: b"\x7fELF", "file": b"new", "folder": b"now a file", "l/y": b""}

    def test_adds_to_folders_of_those_below(self, tmp_path: Path) -> None:
        found = unpacked(
            tmp_path, [MINIMAL, directory(f"{P}d"), Entry(f"{P}d/1")], [directory(f"{P}d"), Entry(f"{P}d/2")]
        )
        assert {"d/1", "d/2"} < found.keys()

    def test_takes_away_by_whiteouts(self, tmp_path: Path) -> None:
        below = [MINIMAL, Entry(f"{P}gone"), Entry(f"{P}d/1"), Entry(f"{P}d/2"), Entry(f"{P}stays")]
        found = unpacked(tmp_path, below, [whiteout(f"{P}gone"), whiteout(f"{P}d"), whiteout(f"{P}never-was")])
        assert found.keys() == {oneagent.PRELOAD_LIBRARY, "stays"}

    def test_hides_a_folder_s_content_of_those_below_and_not_its_own(self, tmp_path: Path) -> None:
        below = [MINIMAL, Entry(f"{P}d/old"), Entry(f"{P}d/both", b"old")]
        above = [Entry(f"{P}d/both", b"new"), opaque(f"{P}d"), Entry(f"{P}d/new")]
        found = unpacked(tmp_path, below, above)
        assert found == {oneagent.PRELOAD_LIBRARY: b"\x7fELF", "d/both": b"new", "d/new": b""}

    def test_may_bring_back_what_one_below_took_away(self, tmp_path: Path) -> None:
        found = unpacked(tmp_path, [MINIMAL, Entry(f"{P}a", b"1")], [whiteout(f"{P}a")], [Entry(f"{P}a", b"2")])
        assert found["a"] == b"2"

    def test_may_be_empty(self, tmp_path: Path) -> None:
        assert unpacked(tmp_path, [], [MINIMAL], []).keys() == {oneagent.PRELOAD_LIBRARY}


class TestAHardLink:
    def test_is_the_same_file_under_another_name(self, tmp_path: Path) -> None:
        unpacked(tmp_path, [MINIMAL, Entry(f"{P}d/a", b"content", 0o755), hard_link(f"{P}b", f"{P}d/a")])
        a, b = tmp_path / "tree/d/a", tmp_path / "tree/b"
        assert a.samefile(b) and b.read_bytes() == b"content"

    def test_keeps_the_content_that_a_later_layer_replaces_elsewhere(self, tmp_path: Path) -> None:
        below = [MINIMAL, Entry(f"{P}a", b"old"), hard_link(f"{P}b", f"{P}a")]
        found = unpacked(tmp_path, below, [Entry(f"{P}a", b"new")])
        assert (found["a"], found["b"]) == (b"new", b"old")

    def test_outlives_its_first_name(self, tmp_path: Path) -> None:
        found = unpacked(tmp_path, [MINIMAL, Entry("opt/x", b"kept"), hard_link(f"{P}b", "opt/x")], [whiteout("opt/x")])
        assert found["b"] == b"kept"

    def test_takes_no_room_of_its_own(self, tmp_path: Path) -> None:
        links = [hard_link(f"{P}{number}", f"{P}a") for number in range(20)]
        found = image.read(blobs(tmp_path, [MINIMAL, Entry(f"{P}a", bytes(1 << 20)), *links]))
        assert found.unpacked_size < 2 << 20


def test_of_a_distribution_only_the_agent_is_used(tmp_path: Path) -> None:
    system = [
        link("bin/sh", "/bin/busybox"),
        Entry("dev/null", kind=tarfile.CHRTYPE),
        Entry("lib/systemd/system-systemd\\x2dcryptsetup.slice"),
        hard_link("bin/ls", "bin/sh"),
    ]
    assert unpacked(tmp_path, system, [MINIMAL]).keys() == {oneagent.PRELOAD_LIBRARY}


def test_a_path_begins_at_the_image_s_root_with_a_slash_or_without(tmp_path: Path) -> None:
    """kaniko names the root itself `/`, and the targets of hard links from there."""
    entries = [
        directory("/"),
        MINIMAL,
        Entry("usr/bin/perl", b"perl"),
        hard_link("usr/bin/perl5.36.0", "/usr/bin/perl"),
        Entry(f"/{P}a", b"content"),
        hard_link(f"/{P}b", f"/{P}a"),
        hard_link(f"{P}perl", "/usr/bin/perl"),
    ]
    found = unpacked(tmp_path, entries, [whiteout(f"/{P}a")])
    assert found == {oneagent.PRELOAD_LIBRARY: b"\x7fELF", "b": b"content", "perl": b"perl"}


ELSEWHERE = {
    "hard link to nothing": [hard_link("bin/git", "/usr/bin/none")],
    "hard link to what comes later": [hard_link("bin/a", "bin/b"), Entry("bin/b")],
    "hard link to a directory": [directory("usr"), hard_link("bin/a", "usr")],
    "hard link out of the image": [hard_link("bin/a", "../../bin/b")],
    "hard link to a name that is not UTF-8": [hard_link("bin/a", "b\udcff")],
    "name that is not UTF-8": [Entry("usr/share/\udcff\udcfe")],
    "link to a name that is not UTF-8": [link("usr/l", "\udcff")],
    "control characters and backslashes": [Entry("etc/line\nbreak"), Entry("etc/back\\slash"), Entry("C:/autoexec")],
    "long name": [Entry(f"etc/{'n' * 300}")],
    "deep path": [Entry("/".join("d" * 80))],
    "detour": [Entry("usr/share/../lib/x")],
    "twice": [Entry("etc/hosts", b"1"), Entry("etc/hosts", b"2"), directory("etc/hosts")],
    "below a file": [Entry("etc/hosts"), Entry("etc/hosts/x")],
    "below a link": [link("lib", "usr/lib"), Entry("lib/x"), directory("lib/y"), hard_link("bin/x", "lib/x")],
}


@pytest.mark.parametrize("entries", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_outside_of_the_agent_s_directory_refuses_an_image(
    tmp_path: Path, entries: list[Entry], first: bool
) -> None:
    layer = [*entries, MINIMAL] if first else [MINIMAL, *entries]
    assert unpacked(tmp_path, [MINIMAL], layer, entries).keys() == {oneagent.PRELOAD_LIBRARY}


MANY = [Entry(f"usr/share/doc/{number}") for number in range(100)]
"""More entries than the limit below."""
FEW = unpack.UnpackLimits(entries=30)


@pytest.mark.parametrize("elsewhere", [[], *ELSEWHERE.values()], ids=["nothing else", *ELSEWHERE])
def test_entries_outside_of_the_agent_s_directory_do_not_count_against_the_limit(
    tmp_path: Path, elsewhere: list[Entry]
) -> None:
    layers = (
        [*MANY, *elsewhere, Entry(f"{P}old", b"old"), Entry(f"{P}gone/file")],
        [MINIMAL, *MANY, whiteout(f"{P}old"), opaque(f"{P}gone"), *elsewhere],
        [whiteout("usr/share"), Entry(f"{P}a", b"content"), hard_link(f"{P}b", f"/{P}a")],
    )
    found = image.read(blobs(tmp_path, *layers), limits=FEW).unpack(tmp_path / "tree")
    assert {file.path: (found.root / file.path).read_bytes() for file in found.manifest.files} == {
        oneagent.PRELOAD_LIBRARY: b"\x7fELF",
        "a": b"content",
        "b": b"content",
    }


@pytest.mark.parametrize("hidden", ["opt", "opt/dynatrace", "opt/dynatrace/oneagent"])
def test_a_whiteout_above_the_agent_counts_in_an_image_with_many_entries(tmp_path: Path, hidden: str) -> None:
    layers = [MINIMAL, Entry(f"{P}old")], [*MANY, whiteout(hidden)], [MINIMAL]
    found = image.read(blobs(tmp_path, *layers), limits=FEW).unpack(tmp_path / "tree")
    assert [file.path for file in found.manifest.files] == [oneagent.PRELOAD_LIBRARY]


@pytest.mark.parametrize(
    "entries",
    [
        [*MANY, Entry(oneagent.PRELOAD_LIBRARY, b"\x7fELF", 0o755)],
        [MINIMAL, *(Entry(f"{P}{number}") for number in range(30))],
        [*MANY, MINIMAL, Entry("/".join([f"{P}a", *"d" * 30, "file"]))],
    ],
    ids=["no agent's directory", "files of the agent", "directories of the agent"],
)
def test_an_agent_of_more_entries_than_the_limit_is_refused(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(unpack.PackageTooLargeError, match="more than 30 entries"):
        image.read(blobs(tmp_path, entries), limits=FEW)


def test_a_path_out_of_the_image_is_refused_among_many_entries(tmp_path: Path) -> None:
    with pytest.raises(unpack.UnsafePackageError, match="leads out"):
        image.read(blobs(tmp_path, [*MANY, MINIMAL, Entry("opt/../../x")]), limits=FEW)


@pytest.mark.parametrize("entries", [ELSEWHERE[name] for name in ELSEWHERE if "control" not in name])
def test_without_an_agent_s_directory_all_of_the_image_is_the_agent(tmp_path: Path, entries: list[Entry]) -> None:
    library = Entry(oneagent.PRELOAD_LIBRARY, b"\x7fELF", 0o755)
    with pytest.raises(unpack.UnsafePackageError):
        unpacked(tmp_path, [library, *entries])


def test_a_file_that_is_twice_elsewhere_gets_no_name_in_the_agent(tmp_path: Path) -> None:
    with pytest.raises(unpack.UnsafePackageError, match="neither a file"):
        unpacked(tmp_path, [MINIMAL, Entry("etc/x", b"1"), Entry("etc/x", b"2"), hard_link(f"{P}x", "etc/x")])


@pytest.mark.parametrize("how", ["gzip", "zstd", ""])
@pytest.mark.parametrize("end", [0, 512, 1024, 20480, -1])
def test_a_tar_needs_no_end(tmp_path: Path, how: str, end: int) -> None:
    """Neither blocks of zeros, nor the zeros that fill the last file's block."""
    data = fakes.tar(MINIMAL, Entry(f"{P}file", b"content"))
    tar = data.rstrip(b"\0") if end < 0 else data[: data.rindex(b"content") + 512] + bytes(end)
    (tmp_path / "layer").write_bytes(fakes.compress(tar, how))
    found = image.read([tmp_path / "layer"]).unpack(tmp_path / "tree")
    assert (found.root / "file").read_bytes() == b"content"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_links_are_read(tmp_path: Path, form: int) -> None:
    path = "/".join(["a-rather-long-name"] * 20)
    data = fakes.tar(MINIMAL, Entry(P + path, b"here"), link(f"{P}l", path), Entry(f"{P}ü"), form=form)
    (tmp_path / "layer").write_bytes(data)
    found = image.read([tmp_path / "layer"]).unpack(tmp_path / "tree")
    assert (found.root / "l").read_bytes() == b"here"
    assert (found.root / "ü").exists()


def test_memory_does_not_grow_with_the_package(tmp_path: Path) -> None:
    large = blobs(tmp_path, [MINIMAL, Entry(f"{P}large", os.urandom(24 << 20))])
    tracemalloc.start()
    try:
        image.read(large).unpack(tmp_path / "tree")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    found = image.read(blobs(tmp_path, [MINIMAL, Entry(f"{P}a", bytes(8 << 20))]))
    asked = iter([False] * 8)
    with pytest.raises(unpack.UnpackCancelledError):
        found.unpack(tmp_path / "tree", cancelled=lambda: next(asked, True))
    assert list((tmp_path / "tree").iterdir()) == []


def test_a_layer_that_has_changed_since_it_was_read_is_noticed(tmp_path: Path) -> None:
    one, two = blobs(tmp_path, [MINIMAL, Entry(f"{P}a", b"1")], [MINIMAL, Entry(f"{P}a", b"12")])
    found = image.read([one])
    two.rename(one)
    with pytest.raises(unpack.CorruptPackageError, match="has changed"):
        found.unpack(tmp_path / "tree")
    assert list((tmp_path / "tree").iterdir()) == []
