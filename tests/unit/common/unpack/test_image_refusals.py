"""A layer with anything odd in it is refused with the whole image, in one line, and leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneagent.common.agents import oneagent
from oneagent.common.unpack import (
    CorruptPackageError,
    NotAnAgentError,
    PackageError,
    PackageTooLargeError,
    UnpackLimits,
    UnsafePackageError,
    UnsupportedPackageError,
    early_files,
    image,
)
from tests.fakes import images as fakes
from tests.fakes import packages as agents
from tests.fakes.images import MINIMAL, Entry, directory, hard_link, link

P = agents.NESTED


def tar(*entries: Entry) -> bytes:
    return fakes.compress(fakes.tar(MINIMAL, *entries))


def header(name: bytes, kind: bytes = b"0", size: bytes = b"0" * 11, content: bytes = b"") -> bytes:
    """A tar of one thing that the library would not write."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136], block[156:157] = b"0000644\0", size.ljust(12, b"\0"), kind
    block[148:156] = b" " * 8
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % 512) + bytes(1024)


def pax(kind: bytes, *records: tuple[str, bytes]) -> bytes:
    """An extended header, without the end of a tar."""
    data = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + 2
        data += b"%02d" % length + rest
    return header(b"extended", kind, b"%011o" % len(data), data)[:-1024]


def altered(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


GOOD = fakes.tar(MINIMAL, Entry(f"{P}file", os.urandom(4000)))
GZIP = gzip.compress(GOOD)
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(GOOD)


def wide() -> bytes:
    """zstd that looks back 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(GOOD) + packer.flush()


BAD: dict[str, tuple[type[PackageError], str, bytes]] = {
    # what could write or point elsewhere
    "up": (UnsafePackageError, "leads out", tar(Entry("../up"))),
    "up from within": (UnsafePackageError, "leads out", tar(Entry(f"{P}a/../../up"))),
    "up by a detour": (UnsafePackageError, "leads out", tar(Entry("usr/../../up"))),
    "into the agent by a detour": (UnsafePackageError, "leads out", tar(Entry("opt/x/../dynatrace/oneagent/f"))),
    "into a directory above the agent by a detour": (UnsafePackageError, "leads out", tar(Entry("usr/x/../../opt"))),
    "deep": (UnsafePackageError, "deeper", tar(Entry(P + "/".join("d" * 80)))),
    "long name": (UnsafePackageError, "more than 255", tar(Entry(P + "n" * 300))),
    "control character": (UnsafePackageError, "control character", tar(Entry(f"{P}line\nbreak"))),
    "backslash": (UnsafePackageError, "backslash", tar(Entry(f"{P}a\\b"))),
    "not UTF-8": (UnsafePackageError, "not UTF-8", header(b"\xff\xfe")),
    "not UTF-8 in the agent": (UnsafePackageError, "not UTF-8", header(P.encode() + b"\xff\xfe")[:-1024] + GOOD),
    "not UTF-8 in pax": (UnsafePackageError, "not UTF-8", pax(b"x", ("path", b"\xff\xfe")) + header(b"name")),
    "link to an absolute path": (UnsafePackageError, "not a relative path", tar(link(f"{P}l", "/etc/passwd"))),
    "link out": (UnsafePackageError, "links out", tar(link(f"{P}l", "../../../../etc/passwd"))),
    "link nowhere": (UnsafePackageError, "leads to no entry", tar(link(f"{P}l", "none"))),
    "link to itself": (UnsafePackageError, "leads to no entry", tar(link(f"{P}l", "l"))),
    "below a link": (UnsafePackageError, "which is no directory", tar(link(f"{P}l", "."), Entry(f"{P}l/x"))),
    "below a file": (UnsafePackageError, "which is no directory", tar(Entry(f"{P}f"), Entry(f"{P}f/x"))),
    "file twice": (UnsafePackageError, "appears twice", tar(Entry(f"{P}f"), Entry(f"{P}f"))),
    "file and folder": (UnsafePackageError, "appears twice", tar(directory(f"{P}f"), Entry(f"{P}f"))),
    "hard link out": (UnsafePackageError, "leads out", tar(hard_link(f"{P}h", "../etc/passwd"))),
    "hard link to a file that only the node has": (
        UnsafePackageError, "no file before it", tar(hard_link(f"{P}h", "/etc/passwd")),
    ),
    "hard link up by a detour": (
        UnsafePackageError, "leads out", tar(Entry("usr/f"), hard_link(f"{P}h", "usr/x/../f")),
    ),
    "hard link forward": (UnsafePackageError, "no file before it", tar(hard_link(f"{P}h", f"{P}f"), Entry(f"{P}f"))),
    "hard link to a folder": (
        UnsafePackageError, "no file before it", tar(directory(f"{P}d"), hard_link(f"{P}h", f"{P}d")),
    ),
    "hard link to itself": (UnsafePackageError, "no file before it", tar(hard_link(f"{P}h", f"{P}h"))),
    "device": (UnsafePackageError, "neither a file", tar(Entry(f"{P}null", kind=tarfile.CHRTYPE))),
    "block device": (UnsafePackageError, "neither a file", tar(Entry(f"{P}disk", kind=tarfile.BLKTYPE))),
    "pipe": (UnsafePackageError, "neither a file", tar(Entry(f"{P}pipe", kind=tarfile.FIFOTYPE))),
    "hard link to a device": (
        UnsafePackageError,
        "neither a file",
        tar(Entry("dev/null", kind=tarfile.CHRTYPE), hard_link(f"{P}h", "dev/null")),
    ),
    "sparse file": (UnsafePackageError, "a sparse file", tar(Entry(f"{P}s", pax={"GNU.sparse.major": "1"}))),
    "old sparse file": (UnsafePackageError, "a sparse file", tar(Entry(f"{P}s", kind=tarfile.GNUTYPE_SPARSE))),
    "sparse file beside the agent": (UnsafePackageError, "a sparse file", tar(Entry("s", kind=tarfile.GNUTYPE_SPARSE))),
    "sparse file that moves into the agent": (
        UnsafePackageError,
        "a sparse file",
        tar(Entry("s", pax={"GNU.sparse.name": f"{P}s"})),
    ),
    "an extended header with bytes after its end": (
        CorruptPackageError,
        "after its end",
        header(b"long", b"L", b"%011o" % 1, b"a/b")[:-1024] + header(b"c"),
    ),
    "a whiteout of nothing": (UnsafePackageError, "without a name", tar(Entry(f"{P}.wh."))),
    "a whiteout of the folder above": (UnsafePackageError, "without a name", tar(Entry(f"{P}.wh..."))),
    "a file by its kind and a directory by its name": (
        CorruptPackageError, "a directory by its name", header(b"name/"),
    ),
    "two names in pax": (
        CorruptPackageError, "twice", pax(b"x", ("path", b"a")) + pax(b"x", ("path", b"b")) + header(b"c"),
    ),
    "two names in pax and GNU": (
        CorruptPackageError,
        "twice",
        header(b"long", b"L", b"%011o" % 1, b"a")[:-1024] + pax(b"x", ("path", b"b")) + header(b"c"),
    ),
    "an extended header of nothing": (CorruptPackageError, "ends after", pax(b"x", ("path", b"a")) + bytes(1024)),
    # what is cut, altered, or no tar
    "nothing": (CorruptPackageError, "the tar is cut short", b""),
    "text": (CorruptPackageError, "the tar is cut short", b"<html>"),
    "much text": (CorruptPackageError, "damaged", b"<html>" * 1000),
    "gzip of text": (CorruptPackageError, "damaged", gzip.compress(b"text" * 1000)),
    "cut tar": (CorruptPackageError, "within a file", GOOD[:3000]),
    "cut tar, in a header": (CorruptPackageError, "the tar is cut short", GOOD[:1100]),
    "cut gzip": (CorruptPackageError, "not whole gzip", gzip.compress(GOOD)[:-2000]),
    "gzip without its checksum": (CorruptPackageError, "not whole gzip", gzip.compress(GOOD)[:-8]),
    "altered gzip": (CorruptPackageError, "gzip|tar|name|deeper", altered(gzip.compress(GOOD), 700)),
    "gzip with another checksum": (CorruptPackageError, "not whole gzip", altered(GZIP, len(GZIP) - 8)),
    "bytes after gzip": (CorruptPackageError, "not whole gzip", gzip.compress(GOOD) + b"tail"),
    "cut zstd": (CorruptPackageError, "ends|zstd|cut short", zstandard.compress(GOOD)[:-1000]),
    "altered zstd": (CorruptPackageError, "not whole zstd", altered(CHECKED, 300)),
    "altered header": (CorruptPackageError, "damaged", altered(GOOD, 3)),
    "bytes after the end": (CorruptPackageError, "after its end", GOOD + header(b"more")),
    "a negative size": (CorruptPackageError, "size of -", header(b"name", b"0", b"\xff" * 11 + b"\x00")),
    "a size that is none": (CorruptPackageError, "bytes", pax(b"x", ("size", b"many")) + header(b"name")),
    "a folder with content": (CorruptPackageError, "bytes of content", header(b"name/", b"5", b"%011o" % 5, b"12345")),
    "a link with content": (CorruptPackageError, "bytes of content", header(b"name", b"2", b"%011o" % 5, b"12345")),
    "an extended header cut": (CorruptPackageError, "cannot be read", header(b"x", b"x", b"%011o" % 7, b"99 a=b\n")),
    "an extended header without a length": (
        CorruptPackageError, "cannot be read", header(b"x", b"x", b"%011o" % 2, b"a="),
    ),
    "a global name": (CorruptPackageError, "global header", pax(b"g", ("path", b"all")) + header(b"name")),
    # what takes too much
    "an endless extended header": (PackageTooLargeError, "extended header", header(b"x", b"x", b"%011o" % (1 << 30))),
    "an endless name": (PackageTooLargeError, "extended header", header(b"x", b"L", b"%011o" % (1 << 30))),
    "too many files": (PackageTooLargeError, "more than 30 entries", tar(*(Entry(f"{P}{n}") for n in range(40)))),
    "too many folders": (
        PackageTooLargeError, "more than 30 entries", tar(*(Entry(f"{P}{n}/{n}/f") for n in range(12))),
    ),
    "a bomb": (PackageTooLargeError, "unpacks? to more than", tar(Entry(f"{P}bomb", bytes(20 << 20)))),
    "a bomb beside the agent": (PackageTooLargeError, "unpacks? to more than", tar(Entry("bomb", bytes(20 << 20)))),
    "a bomb of gzip in gzip": (CorruptPackageError, "damaged", gzip.compress(gzip.compress(bytes(1 << 20)))),
    # what is not read, or no agent
    "zstd that takes much memory": (UnsupportedPackageError, "MiB to unpack", wide()),
    "no agent": (NotAnAgentError, oneagent.PRELOAD_LIBRARY, fakes.compress(fakes.tar(Entry("bin/sh")))),
    "a link as an agent": (
        NotAnAgentError, oneagent.PRELOAD_LIBRARY, fakes.compress(fakes.tar(link(MINIMAL.name, "x"))),
    ),
    "current as a file": (NotAnAgentError, "current", tar(Entry(f"{P}agent/bin/current"))),
}  # fmt: skip


@pytest.mark.parametrize("with_early_files", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_layer(tmp_path: Path, name: str, with_early_files: bool) -> None:
    kind, said, data = BAD[name]
    (tmp_path / "layer").write_bytes(data)
    limits = UnpackLimits(entries=30) if "too many" in name or "bomb" in name else UnpackLimits()
    tree = tmp_path / "tree"
    early = early_files.EarlyFiles(tree, 1 << 30) if with_early_files else None
    if early:
        tree.mkdir()
    with pytest.raises(kind, match=said) as refused:
        image.read([tmp_path / "layer"], limits=limits, early=early).unpack(tree)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert not tree.exists() or not list(tree.iterdir())


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ([Entry(f"{P}file/below")], "which is no directory"),
        ([Entry(f"{P}link/below")], "which is no directory"),
        ([hard_link(f"{P}again", f"{P}gone")], "no file before it"),
    ],
)
def test_a_layer_that_does_not_fit_over_the_one_below(tmp_path: Path, above: list[Entry], said: str) -> None:
    below = [MINIMAL, Entry(f"{P}file"), directory(f"{P}folder"), link(f"{P}link", "folder")]
    for number, entries in enumerate((below, above)):
        (tmp_path / f"{number}").write_bytes(fakes.compress(fakes.tar(*entries)))
    with pytest.raises(UnsafePackageError, match=said):
        image.read([tmp_path / "0", tmp_path / "1"])


SEEDS = [GOOD, fakes.tar(*fakes.agent(), hard_link(f"{P}h", f"{P}manifest.json"), link(f"{P}l", "manifest.json"))]
PACK: list[Callable[[bytes], bytes]] = [lambda data: data, lambda data: gzip.compress(data, 1), zstandard.compress]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    pack=st.sampled_from(PACK),
    inside=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_a_layer_with_any_bytes_changed_is_unpacked_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    seed: bytes,
    pack: Callable[[bytes], bytes],
    inside: bool,
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    place = tmp_path_factory.mktemp("fuzz")

    def changed(data: bytes) -> bytes:
        altered = bytearray(data)
        for at, value in changes:
            altered[at % len(altered)] = value
        return bytes(altered if cut is None else altered[: cut % len(altered)])

    (place / "layer").write_bytes(pack(changed(seed)) if inside else changed(pack(seed)))
    tree = place / "tree"
    try:
        unpacked = image.read([place / "layer"]).unpack(tree)
    except PackageError:
        assert not tree.exists() or not list(tree.iterdir())
    else:
        assert (unpacked.root / oneagent.PRELOAD_LIBRARY).is_file()
    assert sorted(path.name for path in place.iterdir() if path.name != "tree") == ["layer"]
