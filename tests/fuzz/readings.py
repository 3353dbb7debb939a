"""What the standard library reads in a package, and what layers come to when they are put over each other plainly.

This is a second opinion on packages that have been taken: slow, without a bound, and sharing nothing with what it
judges. `UnreadableError` for what it cannot make sense of.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import zstandard

_NESTED: Final = "opt/dynatrace/oneagent"


class UnreadableError(Exception):
    """No tree comes of it."""


@dataclass(frozen=True)
class Thing:
    """A directory if it has neither content nor a target."""

    content: bytes | None = None
    mode: int = 0
    target: str | None = None


Reading = dict[str, Thing]
FOLDER: Final = Thing()


def of_zip(data: bytes) -> Reading:
    found: Reading = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.orig_filename.startswith("/") or ".." in info.orig_filename.split("/"):
                    raise UnreadableError(f"{info.orig_filename!r} leads out")
                _put(found, _path(info.orig_filename), _member(archive, info))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, zlib.error) as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Thing:
    if info.orig_filename.endswith("/"):
        return FOLDER
    content = archive.read(info)
    mode = info.external_attr >> 16 if info.create_system in (3, 19) else 0
    if stat.S_ISLNK(mode):
        return Thing(target=content.decode())
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UnreadableError(f"{info.orig_filename!r} has the mode {mode:o}")
    return Thing(content, stat.S_IMODE(mode) if mode else 0o644)


def of_layers(blobs: tuple[bytes, ...]) -> Reading:
    """The agent's directory in an image, or the whole of it if it has none; the innermost, should it be in itself.

    What is odd is left out, unless it is in the directory that is read.
    """
    whole: Reading = {}
    odd: list[str] = []
    for blob in blobs:
        entries = list(_entries(_unpacked(blob)))
        for path, _ in entries:
            above, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                _remove(whole, above, itself=False)
            elif name.startswith(".wh."):
                _remove(whole, "/".join(filter(None, (above, name.removeprefix(".wh.")))), itself=True)
        for path, found in entries:
            if path and not any(part.startswith(".wh.") for part in path.split("/")):
                thing = whole.get(_path(found.linkname)) if found.islnk() else found.thing
                if thing is None or (found.islnk() and thing == FOLDER):
                    odd.append(path)
                    continue
                if thing != FOLDER:
                    _remove(whole, path, itself=True)
                try:
                    _put(whole, path, thing)
                except UnreadableError:
                    odd.append(path)
    if any(path.startswith(f"{_NESTED}/") or whole.get(_NESTED) != FOLDER for path in odd):
        raise UnreadableError(f"odd: {odd[0]!r}")
    while whole.get(_NESTED) == FOLDER:
        whole = {path[len(_NESTED) + 1 :]: thing for path, thing in whole.items() if path.startswith(f"{_NESTED}/")}
    return whole


class _Entry(tarfile.TarInfo):
    thing: Thing = FOLDER


def _entries(tar: bytes) -> Iterator[tuple[str, _Entry]]:
    try:
        # The end may be missing, and the zeros that fill the last file's block.
        whole = tar + bytes(-len(tar) % 512 + 1024)
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:", tarinfo=_Entry) as archive:
            for info in archive:
                assert isinstance(info, _Entry)
                path = _path(info.name)
                if info.isdir() or (info.isreg() and info.name.endswith("/")):
                    info.thing = FOLDER
                elif info.issym():
                    info.thing = Thing(target=info.linkname)
                elif info.isreg():
                    file = archive.extractfile(info)
                    assert file is not None
                    info.thing = Thing(file.read(), info.mode & 0o7777)
                else:
                    info.thing = Thing(b"odd", -1)  # of no consequence outside of the agent's directory only
                yield path, info
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _unpacked(blob: bytes) -> bytes:
    try:
        if blob.startswith(b"\x1f\x8b"):
            return gzip.decompress(blob)
        if blob.startswith(b"\x28\xb5\x2f\xfd"):
            with zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True) as stream:
                return stream.read()
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error
    return blob


def _put(found: Reading, path: str, thing: Thing) -> None:
    """With the directories above it."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        if found.setdefault("/".join(parts[:depth]), FOLDER) != FOLDER:
            raise UnreadableError(f"{path!r} lies below what is no directory")
    if path:
        found[path] = thing


def _remove(found: Reading, path: str, *, itself: bool) -> None:
    for other in [other for other in found if other.startswith(f"{path}/") or not path]:
        del found[other]
    if itself:
        found.pop(path, None)


def _path(name: str) -> str:
    """As it is, with `..`: no file is found by it, and none in the agent's directory may have it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
