"""A layer is decompressed once: files are written while it is read, as far as that is right and there is room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oneagent.common import unpack
from oneagent.common.agents import oneagent
from oneagent.common.unpack import dedup, file_manifest, image
from oneagent.common.unpack.early_files import EarlyFiles
from tests.fakes import images as fakes
from tests.fakes import packages as agents
from tests.fakes.images import MINIMAL, Entry, directory, hard_link, link, opaque, whiteout

P = agents.NESTED
LIBRARY = Entry(oneagent.PRELOAD_LIBRARY, b"\x7fELF", mode=0o755)
PLENTY = 1 << 30


class Place:
    """Layers, and the empty directory that they are unpacked into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "tree"
        self.tree.mkdir(parents=True)
        self.layers: list[Path] = []

    def write(self, *layers: list[Entry]) -> None:
        """Write layers, the lowest first."""
        self.layers = [self.root / f"layer{number}" for number in range(len(layers))]
        for path, entries in zip(self.layers, layers, strict=True):
            path.write_bytes(fakes.compress(fakes.tar(*entries), "gzip"))

    def read(
        self,
        *layers: list[Entry],
        free_bytes: int = PLENTY,
        existing: dedup.ExistingFiles | None = None,
        limits: unpack.UnpackLimits | None = None,
    ) -> image.ImagePackage:
        self.write(*layers)
        return image.read(self.layers, early=EarlyFiles(self.tree, free_bytes, existing), limits=limits)

    def finish(self, package: image.ImagePackage) -> dict[str, bytes]:
        """Complete the tree; return its files."""
        found = package.unpack(self.tree)
        assert file_manifest.verify(found.root, found.manifest) == []
        return {file.path: (found.root / file.path).read_bytes() for file in found.manifest.files}

    def finish_without_layers(self, package: image.ImagePackage) -> dict[str, bytes]:
        for layer in self.layers:
            layer.unlink()
        return self.finish(package)

    def files(self) -> set[str]:
        """Return the files that are in the tree by now."""
        return {str(path.relative_to(self.tree)) for path in self.tree.rglob("*") if not path.is_dir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


READ_ONCE = {
    "one layer": [[LIBRARY, Entry("a", b"a"), directory("d"), Entry("d/b", b"b"), link("l", "d/b")]],
    "an agent's directory": [[MINIMAL, Entry(f"{P}a", b"a"), Entry(f"/{P}b", b"b")]],
    "hard links": [[MINIMAL, Entry(f"{P}a", b"a"), hard_link(f"{P}b", f"{P}a")]],
    "replaced files": [[MINIMAL, Entry(f"{P}a", b"old")], [Entry(f"{P}a", b"new")]],
    "a file in place of a directory": [[MINIMAL, Entry(f"{P}a/b", b"old")], [Entry(f"{P}a", b"new")]],
    "a directory in place of a file": [
        [MINIMAL, Entry(f"{P}a", b"old")],
        [directory(f"{P}a"), Entry(f"{P}a/b", b"new")],
    ],
    "whiteouts": [
        [MINIMAL, Entry(f"{P}a", b"old"), Entry(f"{P}d/old")],
        [whiteout(f"{P}a"), opaque(f"{P}d"), Entry(f"{P}d/new", b"new")],
    ],
    "a distribution below": [[Entry("usr/bin/perl"), Entry("agent/other")], [MINIMAL, Entry(f"{P}a", b"a")]],
    "a distribution in the same layer": [[Entry("agent/a"), MINIMAL, Entry(f"{P}agent/a", b"a"), Entry("usr/x")]],
    "a distribution above": [[MINIMAL, Entry(f"{P}a", b"a")], [Entry("agent/other"), Entry("usr/bin/perl")]],
}


@pytest.mark.parametrize("layers", READ_ONCE.values(), ids=READ_ONCE)
def test_a_layer_is_read_once(place: Place, layers: list[list[Entry]]) -> None:
    twice = Place(place.root / "twice")
    twice.write(*layers)
    assert place.finish_without_layers(place.read(*layers)) == twice.finish(image.read(twice.layers))


def test_a_file_whose_content_is_below_another_comes_from_a_second_reading(place: Place) -> None:
    below = [MINIMAL, Entry(f"{P}a", b"old"), hard_link(f"{P}b", f"{P}a")]
    package = place.read(below, [Entry(f"{P}a", b"new"), hard_link(f"{P}c", f"{P}b")])
    found = place.finish(package)
    assert found == {oneagent.PRELOAD_LIBRARY: b"\x7fELF", "a": b"new", "b": b"old", "c": b"old"}


FILES = [MINIMAL, *(Entry(f"{P}{number}", os.urandom(50_000)) for number in range(10))]


class TestRoom:
    def test_is_needed_no_more_for_files_that_are_there(self, place: Place) -> None:
        package = place.read(FILES)
        assert len(place.files()) == 11
        assert package.unpacked_size < 50_000

    @pytest.mark.parametrize("free_bytes", [-1, 0, 60_000, 500_000])
    def test_that_is_less_than_the_agent_is_left_to_others(self, place: Place, free_bytes: int) -> None:
        package = place.read(FILES, free_bytes=free_bytes)
        assert place.files() == set()
        assert package.unpacked_size > 500_000
        assert len(place.finish(package)) == 11

    def test_is_not_counted_for_files_of_a_distribution(self, place: Place) -> None:
        system = [Entry(f"usr/{number}", bytes(100_000)) for number in range(4)]
        package = place.read([*system, *FILES], free_bytes=600_000)
        assert len(place.finish_without_layers(package)) == 11


class TestNothingIsLeft:
    def test_of_an_image_that_its_last_entry_refuses(self, place: Place) -> None:
        with pytest.raises(unpack.UnsafePackageError):
            place.read([MINIMAL, Entry(f"{P}d/a", b"a"), Entry(f"{P}../../../../x")])
        assert list(place.tree.iterdir()) == []

    def test_of_an_image_whose_lowest_layer_is_damaged(self, place: Place) -> None:
        place.write([MINIMAL], [Entry(f"{P}a", b"a")])
        place.layers[0].write_bytes(place.layers[0].read_bytes()[:-4])
        with pytest.raises(unpack.CorruptPackageError):
            image.read(place.layers, early=EarlyFiles(place.tree, PLENTY))
        assert list(place.tree.iterdir()) == []

    def test_of_an_image_without_an_agent(self, place: Place) -> None:
        with pytest.raises(unpack.NotAnAgentError):
            place.read([Entry("usr/bin/perl", b"perl")])
        assert list(place.tree.iterdir()) == []

    def test_of_a_cancelled_reading(self, place: Place) -> None:
        place.write([MINIMAL, Entry(f"{P}a", bytes(1 << 20))])
        asked = iter([False] * 4)
        with pytest.raises(unpack.UnpackCancelledError):
            image.read(place.layers, early=EarlyFiles(place.tree, PLENTY), cancelled=lambda: next(asked, True))
        assert list(place.tree.iterdir()) == []

    def test_of_a_reading_that_ended_at_the_limit_of_entries(self, place: Place) -> None:
        many = [Entry(f"usr/{number}") for number in range(40)]
        layer = [Entry(f"{P}a", b"a"), *many, MINIMAL]
        package = place.read(layer, [Entry("agent/b")], limits=unpack.UnpackLimits(entries=30))
        assert place.finish_without_layers(package) == {oneagent.PRELOAD_LIBRARY: b"\x7fELF", "a": b"a"}


def test_a_link_to_a_stored_file_is_forgotten_if_the_agent_has_no_such_file(place: Place) -> None:
    entries = [MINIMAL, Entry(f"{P}a", b"same" * 1000)]
    stored = Place(place.root / "stored")
    package = stored.read(entries)
    manifest = package.unpack(stored.tree).manifest
    existing = dedup.ExistingFiles([(stored.tree, manifest)], dedup.DeferredLinks())
    package = place.read([*entries, Entry(f"{P}x/a", b"same" * 1000)], [whiteout(f"{P}x")], existing=existing)
    package.unpack(place.tree, existing=existing)
    assert existing.deferred is not None
    assert existing.deferred.of == {name: (stored.tree, name) for name in (oneagent.PRELOAD_LIBRARY, "a")}
    assert place.files() == set()
