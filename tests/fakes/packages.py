"""Agent packages to unpack: small ones in the shape of the real thing, and a large one to measure with.

Everything is derived from a seed, so that two runs, and two machines, unpack the same bytes.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.common.agents import oneagent
from oneagent.common.identifiers import Version
from oneagent.common.unpack import zip
from oneagent.csi_driver.data_dir import DataDir

VERSION: Final = "1.277.0.20230914-094321"
NESTED: Final = "opt/dynatrace/oneagent/"

_MIB: Final = 1 << 20
_DATE: Final = (2023, 9, 14, 9, 43, 20)
_UNIX: Final = 3


def write(
    archive: zipfile.ZipFile, name: str, content: bytes = b"", mode: int = 0o100644, level: int | None = None
) -> None:
    """Add an entry with a full unix mode (`0o120777` makes a link), deflated unless it is a directory."""
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = _UNIX
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith("/") else zipfile.ZIP_DEFLATED
    archive.writestr(info, content, compresslevel=level)


def loadable() -> Path:
    """A small library that every program with glibc can be started with, and that does nothing by itself."""
    return next(Path("/lib").glob("*-linux-gnu/libdl.so.2"))


def build(
    path: Path, version: str = VERSION, *, prefix: str = "", filler: int = 0, library: Path | None = None
) -> Path:
    """A small agent of a few files; `filler` bytes that do not compress can make it larger.

    `library` is what is preloaded, where a program is really started with it.
    """
    preloaded = library.read_bytes() if library else b"\x7fELF" + version.encode() * 200
    binaries = f"{prefix}agent/bin/{version}/"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("agent/", "agent/bin/", "agent/conf/", "agent/log/"):
            write(archive, prefix + folder, mode=0o040755)
        write(archive, prefix + oneagent.PRELOAD_LIBRARY, preloaded, 0o100755)
        write(archive, f"{prefix}agent/lib/liboneagentproc.so", b"\x7fELF" + version.encode() * 100, 0o100755)
        write(archive, f"{binaries}any/liboneagentjava.so", b"\x7fELF java" * 500, 0o100755)
        write(archive, f"{binaries}linux-x86-64/oneagentnodeagent", b"#!/bin/sh\n", 0o100755)
        write(archive, f"{prefix}agent/conf/ruxitagentproc.conf", b"[general]\nlibjava on\n", 0o100664)
        write(archive, f"{prefix}agent/installer.version", version.encode())
        write(archive, f"{prefix}manifest.json", b'{"version":"%b","technologies":{}}' % version.encode())
        if filler:
            write(archive, f"{prefix}agent/filler.bin", random.Random(version).randbytes(filler))
    return path


def store(root: Path, version: Version) -> DataDir:
    """Return a data directory with one version in its store, without the mount points that an install adds."""
    data = DataDir(root)
    data.create()
    unpacked = zip.unpack_agent(build(data.tmp / "package.zip"), data.tmp / "tree")
    unpacked.manifest.dump(data.manifest(version))
    unpacked.root.rename(data.agent(version))
    return data


def build_large(
    path: Path, version: str = VERSION, *, megabytes: int = 600, files: int = 1500, seed: int = 1, changed: float = 0.0
) -> Path:
    """An agent of about `megabytes` unpacked, a third of it packed, in `files` files.

    Four libraries hold half of the bytes (three are over 64 MiB at the default size); the rest have sizes
    from nothing to some MiB. A file is like machine code, like text, or already
    compressed. What is like code or text packs as well as real libraries and sources do, and zlib and ISA-L
    unpack it as fast as those.

    So much of the bytes, and no more, is `changed` from what the same seed gives otherwise.
    """
    chance = random.Random(seed)
    blocks = {"so": _machine_code(chance), "js": _text(chance), "jar": chance.randbytes(8 * _MIB)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        write(archive, oneagent.PRELOAD_LIBRARY, blocks["so"][:600_000], 0o100755)
        left = int(changed * megabytes * _MIB)
        for name, size in _sizes(chance, version, megabytes * _MIB, files - 1):
            kind = name.rpartition(".")[2]
            content = _cut(blocks[kind], chance.randrange(4 * _MIB), size)
            if 0 < size <= left:
                left -= size
                content = bytes([content[0] ^ 1]) + content[1:]
            write(archive, name, content, 0o100755 if kind == "so" else 0o100644)
    return path


def _sizes(chance: random.Random, version: str, total: int, files: int) -> Iterator[tuple[str, int]]:
    for number, share in enumerate((0.18, 0.13, 0.11, 0.08)):
        yield f"agent/bin/{version}/linux-x86-64/liboneagent{number}.so", int(total * share)
    weights = [chance.paretovariate(0.9) if number % 50 else 0.0 for number in range(files - 4)]
    weights = [min(weight, 400.0) for weight in weights]
    unit = total / 2 / sum(weights)
    for number, weight in enumerate(weights):
        kind = "jar" if number % 20 == 19 else "so" if number % 2 else "js"
        yield f"agent/bin/{version}/any/module{number % 97}/file{number}.{kind}", int(weight * unit)


def _machine_code(chance: random.Random) -> bytes:
    """8 MiB of short sequences, some much more frequent than others."""
    return _sentences(chance, 3000, (3, 4, 5, 6, 7, 8, 12, 20, 32))


def _text(chance: random.Random) -> bytes:
    """8 MiB of fewer sequences: deflate makes a quarter of it."""
    return _sentences(chance, 300, (3, 4, 5, 6, 8, 10, 14, 24))


def _sentences(chance: random.Random, words: int, lengths: tuple[int, ...]) -> bytes:
    alphabet = [1 / (rank + 3) for rank in range(256)]
    known = [bytes(chance.choices(range(256), alphabet, k=chance.choice(lengths))) for _ in range(words)]
    frequency = [1 / (rank + 20) for rank in range(words)]
    return b"".join(chance.choices(known, frequency, k=10 * _MIB // (sum(lengths) // len(lengths))))[: 8 * _MIB]


def _cut(block: bytes, start: int, size: int) -> bytes:
    """`size` bytes of the endless repetition of a block; its period is far beyond deflate's window."""
    once = block[start : start + size]
    return once if len(once) == size else once + (block * (size // len(block) + 1))[: size - len(once)]
