"""However a package is altered on its way, it is refused or it unpacks to just what it was."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneagent.common import unpack as common_unpack
from oneagent.common.unpack import zip
from tests.fakes import packages as fakes
from tests.unit.common.unpack import archives


def tree_of(root: Path) -> dict[str, bytes]:
    """Content by path; a link counts as its target, because a mode's bits are covered by no checksum."""
    return {
        str(path.relative_to(root)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("good")
    archive = fakes.build(folder / "package.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        fakes.write(opened, "agent/log/link", b"../conf", archives.LINK)
        opened.writestr("agent/stored.jar", b"stored " * 40, zipfile.ZIP_STORED)
    zip.unpack_zip(archive, folder / "into")
    return archive.read_bytes(), tree_of(folder / "into")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_package_is_refused_or_unpacks_to_the_same(
    package: tuple[bytes, dict[str, bytes]], data: st.DataObject
) -> None:
    good, expected = package
    altered = bytearray(good)
    # Most bytes are content; the directory at the end is where an alteration has choices.
    places = st.one_of(st.integers(0, len(good) - 1), st.integers(len(good) * 3 // 5, len(good) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=3)):
        altered[place] = value
    end = data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))

    with tempfile.TemporaryDirectory() as folder:
        archive, into = Path(folder) / "package.zip", Path(folder) / "into"
        archive.write_bytes(altered[:end])
        try:
            zip.unpack_zip(archive, into, threads=1)
        except common_unpack.PackageError as error:
            assert "\n" not in str(error)
            assert not into.exists() or not list(into.iterdir())
        else:
            assert tree_of(into) == expected
