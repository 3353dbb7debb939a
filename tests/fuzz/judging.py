"""A case is refused in one line, or it becomes the tree that its second reading says; nothing else may happen.

Whichever it is: nothing outside of the folder is touched, nothing is left of what is refused, and the tree holds
files, folders and links within it only. A sound case is not refused.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import agent_layout, early_files, file_manifest, tree_writer
from oneagent.common.unpack import image as unpack_image
from oneagent.common.unpack import zip as unpack_zip
from tests.fuzz import readings, tars, zipfiles
from tests.fuzz.alterations import Chance

LIMITS: Final = common_unpack.UnpackLimits(unpacked_bytes=4 << 20, entries=100)
REFUSALS: Final = (
    common_unpack.CorruptPackageError,
    common_unpack.UnsafePackageError,
    common_unpack.PackageTooLargeError,
    common_unpack.UnsupportedPackageError,
    common_unpack.NotAnAgentError,
)
"""Not `UnpackFailedError`: a name that the file system refuses should have been seen before."""
LONGEST: Final = 400


def image(chance: Chance) -> str:
    """Judge an image; the name of what refused it, empty if nothing did. Early files make no difference."""
    case = tars.case(chance)

    def unpacked(place: Path, tree: Path, *, with_early_files: bool) -> tree_writer.UnpackedAgent:
        blobs = [place / f"layer{number}" for number in range(len(case.blobs))]
        for blob, data in zip(blobs, case.blobs, strict=True):
            blob.write_bytes(data)
        early = early_files.EarlyFiles(tree, LIMITS.unpacked_bytes) if with_early_files else None
        if early:
            tree.mkdir()
        return unpack_image.read(blobs, limits=LIMITS, early=early).unpack(tree)

    results = {
        _judge(partial(unpacked, with_early_files=early), lambda: readings.of_layers(case.blobs), case.sound)
        for early in (False, True)
    }
    assert len(results) == 1, f"{results} without and with early files"
    return results.pop()


def archive(chance: Chance) -> str:
    """Judge a zip, as `image`."""
    case = zipfiles.case(chance)

    def unpacked(place: Path, tree: Path) -> tree_writer.UnpackedAgent:
        (place / "package.zip").write_bytes(case.data)
        return unpack_zip.unpack_agent(place / "package.zip", tree, limits=LIMITS, threads=1)

    return _judge(unpacked, lambda: readings.of_zip(case.data), case.sound)


def _judge(
    unpacked: Callable[[Path, Path], tree_writer.UnpackedAgent], read: Callable[[], readings.Reading], sound: bool
) -> str:
    place = Path(tempfile.mkdtemp(prefix="fuzz."))
    tree, before = place / "in/the/tree", len(os.listdir("/proc/self/fd"))
    tree.parent.mkdir(parents=True)
    try:
        try:
            found = unpacked(place, tree)
        except REFUSALS as error:
            _check_refusal(error, tree, sound)
            result = type(error).__name__
        else:
            _check_tree(found, read())
            result = ""
        beside = {path.name for path in place.iterdir() if path.suffix != ".zip" and not path.name.startswith("layer")}
        assert beside == {"in"} and os.listdir(place / "in") == ["the"]
        assert set(os.listdir(tree.parent)) <= {"tree"}
        assert len(os.listdir("/proc/self/fd")) == before, "a file is still open"
        return result
    finally:
        shutil.rmtree(place)


def _check_refusal(error: common_unpack.PackageError, tree: Path, sound: bool) -> None:
    assert not sound, f"sound, and refused: {error}"
    assert str(error).isprintable() and 0 < len(str(error)) <= LONGEST, f"not one clear line: {str(error)!r}"
    assert not tree.exists() or not any(tree.iterdir()), "something is left"


def _check_tree(found: tree_writer.UnpackedAgent, expected: readings.Reading) -> None:
    if agent_layout.CURRENT not in expected and (current := found.root / agent_layout.CURRENT).is_symlink():
        expected[agent_layout.CURRENT] = readings.Thing(target=os.readlink(current))
    there = {str(path.relative_to(found.root)): path for path in found.root.rglob("*")}
    assert there.keys() == expected.keys(), f"differs in {sorted(there.keys() ^ expected.keys())}"
    for name, thing in expected.items():
        status = there[name].lstat()
        if thing.target is not None:
            assert os.readlink(there[name]) == thing.target, name
            assert there[name].resolve(strict=True).is_relative_to(found.root.resolve()), name
        elif thing.content is None:
            assert status.st_mode == stat.S_IFDIR | file_manifest.DIRECTORY_MODE, name
        else:
            assert status.st_mode == stat.S_IFREG | tree_writer.file_mode(thing.mode), f"{name}: {status.st_mode:o}"
            assert there[name].read_bytes() == thing.content, name
    assert file_manifest.verify(found.root, found.manifest) == []
