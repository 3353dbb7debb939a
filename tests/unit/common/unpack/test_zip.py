"""A sound package becomes the tree that it describes."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from oneagent.common import unpack as common_unpack
from oneagent.common.agents import oneagent
from oneagent.common.unpack import zip, zip_reader
from tests.fakes import packages as fakes
from tests.unit.common.unpack import archives

FILE = 0o100644


def content_of(tree: Path) -> dict[str, bytes | str | None]:
    """Files by content, links by target, folders as None."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_unpacks_what_the_standard_library_unpacks(tmp_path: Path, method: int, threads: int) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr("empty", b"")
        opened.writestr("deep/er/and/deeper/file", b"x")
        opened.writestr("empty folder/", b"")
        opened.writestr("\u00fcml\u00e4ut/\u732b.txt", "unicode \u732b")
        opened.writestr("zeros", bytes(3 << 20))
        opened.writestr("noise", os.urandom((5 << 20) + 1))
        opened.writestr("exactly one piece", bytes(range(256)) * 4096)
        for number in range(60):
            opened.writestr(f"many/{number % 7}/{number}", os.urandom(number * 50) * 3)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "expected")

    manifest = zip.unpack_zip(archive, tmp_path / "into", threads=threads)

    assert content_of(tmp_path / "into") == content_of(tmp_path / "expected")
    assert [file.path for file in manifest.files] == sorted(file.path for file in manifest.files)
    for file in manifest.files:
        content = (tmp_path / "into" / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_sizes_may_follow_the_data(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        """A file that cannot seek, so that the writer has to use data descriptors."""

        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object, /) -> int:
            self.written += bytes(data)  # type: ignore[call-overload]
            return len(data)  # type: ignore[arg-type]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a", b"first " * 1000)
        opened.writestr("b", b"second " * 1000)
    (tmp_path / "package.zip").write_bytes(pipe.written)

    zip.unpack_zip(tmp_path / "package.zip", tmp_path / "into")

    assert content_of(tmp_path / "into") == {"a": b"first " * 1000, "b": b"second " * 1000}


def test_zip64_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened, opened.open("a", "w", force_zip64=True) as file:
        file.write(b"content" * 500)
    assert zip.unpack_zip(archive, tmp_path / "into").unpacked_bytes == 3500


def test_a_zip_of_more_entries_than_its_end_record_can_count_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as opened:
        for number in range(0x10000):
            opened.writestr(zipfile.ZipInfo(f"{number}/"), b"")
    limits = common_unpack.UnpackLimits(entries=0x10001)
    assert zip_reader.unpacked_size(tmp_path / "package.zip", limits) == (0x10000 + 1) * 4096


def test_a_comment_at_the_end_is_allowed(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"a comment"
    zip.unpack_agent(archive, tmp_path / "into")


def test_modes_keep_only_what_a_shared_file_may_have(tmp_path: Path) -> None:
    archive = archives.of(
        tmp_path / "package.zip",
        ("folder/", b"", 0o040700),
        ("plain", b"", 0o100644),
        ("program", b"", 0o100755),
        ("setuid", b"", 0o106755),
        ("for all", b"", 0o100777),
        ("for nobody", b"", 0o100010),
    )
    old = os.umask(0o077)
    try:
        manifest = zip.unpack_zip(archive, tmp_path / "into")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)

    into = tmp_path / "into"
    modes = {path.name: mode_of(path) for path in into.iterdir()}
    assert modes == {
        "folder": 0o1777,
        "plain": 0o644,
        "program": 0o755,
        "setuid": 0o755,
        "for all": 0o755,
        "for nobody": 0o454,
    }
    assert mode_of(into) == 0o1777
    assert all(file.mode == modes[file.path] for file in manifest.files)


def test_a_file_whose_mode_another_system_wrote_gets_a_plain_one(tmp_path: Path) -> None:
    archive = archives.of(tmp_path / "package.zip", ("file", b"", 0o104777))
    archives.patched(archive, b"PK\x01\x02", 5, b"\0")

    zip.unpack_zip(archive, tmp_path / "into")

    assert mode_of(tmp_path / "into/file") == 0o644


def test_links_inside_the_tree_are_made(tmp_path: Path) -> None:
    archive = archives.of(
        tmp_path / "package.zip",
        ("lib/1.2/file", b"content", FILE),
        ("lib/current", b"1.2", archives.LINK),
        ("a/b/link", b"../../lib/current/../1.2/./file", archives.LINK),
        ("top", b"a/..", archives.LINK),
    )

    manifest = zip.unpack_zip(archive, tmp_path / "into")

    assert (tmp_path / "into/a/b/link").read_bytes() == b"content"
    assert {link.path: link.target for link in manifest.links} == {
        "lib/current": "1.2",
        "a/b/link": "../../lib/current/../1.2/./file",
        "top": "a/..",
    }


def test_an_empty_zip_is_an_empty_tree(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.zip", "w"):
        pass
    manifest = zip.unpack_zip(tmp_path / "package.zip", tmp_path / "into")
    assert (manifest.files, manifest.links, manifest.directories) == ([], [], [])


@pytest.mark.parametrize("prefix", ["", fakes.NESTED])
def test_an_agent_is_found_at_the_top_or_below_opt(tmp_path: Path, prefix: str) -> None:
    archive = fakes.build(tmp_path / "package.zip", prefix=prefix)

    unpacked = zip.unpack_agent(archive, tmp_path / "into")
    unpacked.make_durable()

    assert unpacked.root == tmp_path / "into" / prefix
    assert (unpacked.root / oneagent.PRELOAD_LIBRARY).is_file()
    assert mode_of(unpacked.root) == 0o1777
    listed = {file.path for file in unpacked.manifest.files} | {link.path for link in unpacked.manifest.links}
    assert listed | set(unpacked.manifest.directories) == set(content_of(unpacked.root))
    assert unpacked.unpacked_bytes == sum(
        path.stat().st_size for path in unpacked.root.rglob("*") if path.is_file() and "current" not in path.parts
    )


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["1.277.0.20230914-094321"], "1.277.0.20230914-094321"),
        (["1.99.0.1-1", "1.277.0.20230914-94321", "1.277.0.20230914-100000"], "1.277.0.20230914-100000"),
        (["1.277.0", "any", "x1.2.3.4-5", "1.2.3.4-5x"], None),
    ],
)
def test_current_names_the_newest_version(tmp_path: Path, versions: list[str], newest: str | None) -> None:
    archive = archives.of(
        tmp_path / "package.zip",
        (oneagent.PRELOAD_LIBRARY, b"", FILE),
        *((f"agent/bin/{version}/file", b"", FILE) for version in versions),
    )

    unpacked = zip.unpack_agent(archive, tmp_path / "into")

    current = unpacked.root / "agent/bin/current"
    assert (os.readlink(current) if current.is_symlink() else None) == newest
    assert [link.target for link in unpacked.manifest.links] == ([newest] if newest else [])


def test_a_current_of_the_package_is_kept(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        fakes.write(opened, "agent/bin/1.1.1.1-1/file", b"")
        fakes.write(opened, "agent/bin/current", b"1.1.1.1-1", archives.LINK)

    unpacked = zip.unpack_agent(archive, tmp_path / "into")

    assert os.readlink(unpacked.root / "agent/bin/current") == "1.1.1.1-1"


def test_the_estimate_counts_whole_blocks(tmp_path: Path) -> None:
    archive = archives.of(
        tmp_path / "package.zip", ("a/one", b"1", FILE), ("a/two", b"2" * 4097, FILE), ("a/none", b"", FILE)
    )
    assert zip_reader.unpacked_size(archive) == 4096 + 8192 + 2 * 4096


def test_no_thread_and_no_descriptor_is_left(tmp_path: Path) -> None:
    archive = fakes.build(tmp_path / "package.zip")
    zip.unpack_agent(archive, tmp_path / "first")
    before = set(os.listdir("/proc/self/fd"))

    zip.unpack_agent(archive, tmp_path / "second")
    with pytest.raises(common_unpack.PackageError):
        zip.unpack_agent(archives.of(tmp_path / "bad.zip", ("..", b"", FILE)), tmp_path / "third")

    assert set(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unpack")]
