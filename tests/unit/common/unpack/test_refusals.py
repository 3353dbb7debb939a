"""A package with anything odd in it is refused as a whole, in one line, and leaves nothing behind."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import (
    CorruptPackageError,
    NotAnAgentError,
    PackageError,
    PackageTooLargeError,
    UnpackCancelledError,
    UnpackFailedError,
    UnpackLimits,
    UnsafePackageError,
    UnsupportedPackageError,
    zip,
    zip_reader,
)
from tests.fakes import packages as fakes
from tests.unit.common.unpack import archives

FILE = 0o100644

Make = Callable[[Path], Path]


def entries(*listed: tuple[str, bytes, int]) -> Make:
    return lambda path: archives.of(path, *listed)


def link(target: str) -> Make:
    return entries(("folder/file", b"", FILE), ("folder/link", target.encode(), archives.LINK))


def good(path: Path) -> Path:
    return archives.of(path, ("name.txt", b"content " * 100, FILE))


def garbage(content: bytes) -> Make:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def cut(path: Path) -> Path:
    path.write_bytes(good(path).read_bytes()[:-40])
    return path


def with_tail(path: Path) -> Path:
    path.write_bytes(good(path).read_bytes() + b"tail")
    return path


REFUSED: list[tuple[str, Make, type[PackageError], str]] = [
    ("parent folder", entries(("a/../../etc/passwd", b"", FILE)), UnsafePackageError, "leads out of the tree"),
    ("absolute path", entries(("/etc/passwd", b"", FILE)), UnsafePackageError, "absolute path"),
    ("drive letter", entries(("c:/windows", b"", FILE)), UnsafePackageError, "absolute path"),
    ("backslash", entries(("a\\b", b"", FILE)), UnsafePackageError, "backslash"),
    ("NUL", lambda p: archives.renamed(good(p), "name.txt", "name\0txt"), UnsafePackageError, "control character"),
    ("line break", entries(("a\nb", b"", FILE)), UnsafePackageError, "control character"),
    ("long name", entries(("x" * 256, b"", FILE)), UnsafePackageError, "more than 255 bytes"),
    ("long name in UTF-8", entries(("\u00e4" * 128, b"", FILE)), UnsafePackageError, "more than 255 bytes"),
    ("long path", entries(("/".join(["x" * 200] * 21), b"", FILE)), UnsafePackageError, "longer than a path"),
    ("deep path", entries(("/".join("x" * 65), b"", FILE)), UnsafePackageError, "longer than a path"),
    ("no name", entries(("./.", b"", FILE)), UnsafePackageError, "names the tree itself"),
    ("absolute link", link("/etc/passwd"), UnsafePackageError, "not a relative path"),
    ("empty link", link(""), UnsafePackageError, "not a relative path"),
    ("link out of the tree", link("../../file"), UnsafePackageError, "links out of the tree"),
    ("link to nothing", link("nothing"), UnsafePackageError, "leads to no entry"),
    ("link through a file", link("file/../file"), UnsafePackageError, "leads to no entry"),
    ("link to itself", link("link"), UnsafePackageError, "leads to no entry"),
    ("huge link", link("x" * 5000), UnsafePackageError, "links to a path of 5,000 bytes"),
    (
        "link out by way of a link",
        entries(("a/b/", b"", archives.FOLDER), ("l", b"a/b", archives.LINK), ("a/m", b"../l/../../..", archives.LINK)),
        UnsafePackageError,
        "links out of the tree",
    ),
    (
        "file below a link",
        entries(("a/", b"", archives.FOLDER), ("l", b"a", archives.LINK), ("l/file", b"", FILE)),
        UnsafePackageError,
        "and a directory as well",
    ),
    ("character device", entries(("null", b"", 0o020666)), UnsafePackageError, "neither a file"),
    ("block device", entries(("disk", b"", 0o060666)), UnsafePackageError, "neither a file"),
    ("fifo", entries(("pipe", b"", 0o010666)), UnsafePackageError, "neither a file"),
    ("socket", entries(("socket", b"", 0o140666)), UnsafePackageError, "neither a file"),
    ("file that says it is a folder", entries(("a", b"", archives.FOLDER)), UnsafePackageError, "neither a file"),
    ("folder with content", entries(("a/", b"x", archives.FOLDER)), UnsafePackageError, "directory by its name"),
    ("same name twice", entries(("a", b"1", FILE), ("./a", b"2", FILE)), UnsafePackageError, "appears twice"),
    ("file and folder", entries(("a", b"", FILE), ("a/", b"", archives.FOLDER)), UnsafePackageError, "appears twice"),
    ("file above a file", entries(("a/b", b"", FILE), ("a", b"", FILE)), UnsafePackageError, "and a directory as well"),
    ("shared data", archives.overlapping, PackageError, "file0"),
    ("encrypted", lambda p: archives.both(good(p), 6, 8, b"\1\0"), UnsupportedPackageError, "is encrypted"),
    ("bzip2", lambda p: archives.both(good(p), 8, 10, b"\x0c\0"), UnsupportedPackageError, "only deflate"),
    (
        "new version",
        lambda p: archives.patched(good(p), b"PK\1\2", 6, b"\xff\0"),
        UnsupportedPackageError,
        "cannot be read",
    ),
    ("empty file", garbage(b""), CorruptPackageError, "not a readable zip"),
    ("not a zip", garbage(b"<html>" * 1000), CorruptPackageError, "not a readable zip"),
    ("cut short", cut, CorruptPackageError, "not a readable zip"),
    ("longer than a zip", with_tail, CorruptPackageError, "after its end record"),
    (
        "other count",
        lambda p: archives.patched(good(p), b"PK\5\6", 10, b"\7\0"),
        CorruptPackageError,
        "lists 1 of the 7",
    ),
    ("other name", lambda p: archives.patched(good(p), b"PK\3\4", 30, b"X"), CorruptPackageError, "another name"),
    (
        "other encoding of the name",
        lambda p: archives.patched(archives.of(p, ("näme", b"", FILE)), b"PK\3\4", 6, b"\0\0"),
        CorruptPackageError,
        "differently",
    ),
    ("other method", lambda p: archives.patched(good(p), b"PK\3\4", 8, b"\0\0"), CorruptPackageError, "differently"),
    ("other size", lambda p: archives.patched(good(p), b"PK\3\4", 22, b"\1"), CorruptPackageError, "differently"),
    ("no header", lambda p: archives.patched(good(p), b"PK\3\4", 0, b"XX"), CorruptPackageError, "no header"),
    ("wrong checksum", lambda p: archives.both(good(p), 14, 16, b"1234"), CorruptPackageError, "checksum"),
    (
        "more than declared",
        lambda p: archives.both(good(p), 22, 24, b"\1\0"),
        CorruptPackageError,
        "more than the 1 bytes",
    ),
    (
        "less than declared",
        lambda p: archives.both(good(p), 22, 24, b"\xff\xff"),
        CorruptPackageError,
        "800 of the 65,535",
    ),
    (
        "no deflated data",
        lambda p: archives.patched(good(p), b"name.txt", 8, b"\xff\xff"),
        CorruptPackageError,
        "deflated",
    ),
    ("packed size cut", lambda p: archives.both(good(p), 18, 20, b"\5\0"), CorruptPackageError, "in the middle of"),
]


@pytest.mark.parametrize(("make", "error", "text"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_an_odd_archive_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, make: Make, error: type[PackageError], text: str
) -> None:
    archive = make(tmp_path / "package.zip")
    into = tmp_path / "into"

    with pytest.raises(error) as refused:
        zip.unpack_zip(archive, into, threads=2)

    assert text in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not into.exists() or not list(into.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir() if path != into) == ["package.zip"]


def test_members_that_share_data_are_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    archive = archives.of(tmp_path / "package.zip", ("file000", b"0" * 99, FILE), ("file001", b"0" * 99, FILE))
    data = bytearray(archive.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 46 : second + 53] = b"file000"
    data[second + 42 : second + 46] = bytes(4)
    archive.write_bytes(data)

    with pytest.raises(UnsafePackageError, match="shares its data"):
        zip.unpack_zip(archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_more_entries_than_allowed_are_refused_in_a_directory_of_an_allowed_size(tmp_path: Path) -> None:
    """Even if they add nothing to the tree: each costs memory when the directory is read."""
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as package:
        for number in range(21):
            package.writestr("./" * (number + 1), b"")
    assert archive.stat().st_size < 20 * 512, "no directory of 20 entries may be larger"
    assert zip_reader.unpacked_size(archive, UnpackLimits(entries=21)) > 0
    with pytest.raises(PackageTooLargeError, match="more than 20 entries"):
        zip_reader.unpacked_size(archive, UnpackLimits(entries=20))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (UnpackLimits(unpacked_bytes=100), "more than 100 bytes"),
        (UnpackLimits(entries=2), "more than 2 entries"),
        (UnpackLimits(entries=0), "directory claims"),
    ],
)
def test_a_package_over_a_limit_is_refused(tmp_path: Path, limits: UnpackLimits, text: str) -> None:
    archive = fakes.build(tmp_path / "package.zip")

    for refuse in (
        lambda: zip.unpack_agent(archive, tmp_path / "into", limits=limits),
        lambda: zip_reader.unpacked_size(archive, limits),
    ):
        with pytest.raises(PackageTooLargeError, match=text):
            refuse()
    assert not (tmp_path / "into").exists()


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    archive = archives.of(tmp_path / "package.zip", ("zeros", bytes(17 << 20), FILE))

    with pytest.raises(PackageTooLargeError, match="50 to 1"):
        zip.unpack_zip(archive, tmp_path / "into")
    zip.unpack_zip(archive, tmp_path / "into", limits=UnpackLimits(ratio=2000))


def test_folders_that_are_only_named_count_as_entries(tmp_path: Path) -> None:
    names = ["/".join(f"{number}-{depth}" for depth in range(10)) for number in range(3)]
    archive = archives.of(tmp_path / "package.zip", *((f"{name}/file", b"", FILE) for name in names))

    with pytest.raises(PackageTooLargeError, match="more than 20 entries"):
        zip.unpack_zip(archive, tmp_path / "into", limits=UnpackLimits(entries=20))


def test_a_directory_of_too_many_entries_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}", b"")

    with pytest.raises(PackageTooLargeError, match="more than 100 entries"):
        zip.unpack_zip(tmp_path / "package.zip", tmp_path / "into", limits=UnpackLimits(entries=100))


def test_a_cancelled_unpack_leaves_nothing(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip", filler=3 << 20)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(UnpackCancelledError):
        zip.unpack_agent(archive, tmp_path / "into", cancelled=cancelled)
    assert list((tmp_path / "into").iterdir()) == []


def test_what_the_system_refuses_says_why(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "kept").touch()

    with pytest.raises(UnpackFailedError, match="not empty") as refused:
        zip.unpack_zip(archive, tmp_path / "into")
    assert refused.value.errno == errno.EEXIST
    assert (tmp_path / "into" / "kept").exists()

    with pytest.raises(UnpackFailedError, match=r"absent\.zip.*No such file"):
        zip.unpack_zip(tmp_path / "absent.zip", tmp_path / "new")
    with pytest.raises(UnpackFailedError, match="No such file"):
        zip_reader.unpacked_size(tmp_path / "absent.zip")


def test_a_package_without_the_preload_library_is_no_agent(tmp_path: Path) -> None:
    archive = archives.of(tmp_path / "package.zip", ("agent/lib/liboneagentproc.so", b"", FILE))

    with pytest.raises(NotAnAgentError, match=r"has no agent/lib64/liboneagentproc\.so"):
        zip.unpack_agent(archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("current", "error", "text"),
    [
        (("agent/bin/current", b"", FILE), NotAnAgentError, "has to be a link"),
        (("agent/bin/current/", b"", archives.FOLDER), NotAnAgentError, "has to be a link"),
        (("agent/bin/current", b"../lib64/liboneagentproc.so", archives.LINK), NotAnAgentError, "lead to a directory"),
        (("agent/bin/current", b"1.2.3.4-5", archives.LINK), common_unpack.UnsafePackageError, "leads to no entry"),
    ],
)
def test_a_current_that_is_no_link_to_a_folder_is_refused(
    tmp_path: Path, current: tuple[str, bytes, int], error: type[PackageError], text: str
) -> None:
    archive = fakes.build(tmp_path / "package.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        fakes.write(opened, *current)

    with pytest.raises(error, match=text):
        zip.unpack_agent(archive, tmp_path / "into")


def test_a_link_may_not_leave_the_agent_for_what_lies_beside_it(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip", prefix=fakes.NESTED)
    with zipfile.ZipFile(archive, "a") as opened:
        fakes.write(opened, "opt/other", b"")
        fakes.write(opened, f"{fakes.NESTED}link", b"../../other", archives.LINK)

    zip.unpack_zip(archive, tmp_path / "zip")
    with pytest.raises(UnsafePackageError, match="links out of the tree"):
        zip.unpack_agent(archive, tmp_path / "agent")
