"""Names in the store: a digest of the content, or a version with its source."""

from __future__ import annotations

import pytest

from oneagent.common.identifiers import Version, agent_version, is_version
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.store import store_key

HEX = "0123456789abcdef" * 4
VERSION = Version("1.277.0.20230914-094321")


def test_all_keys_are_keys_and_usable_as_directory_names() -> None:
    longest = Version("1" * 100)
    for key in (
        store_key.of_image(f"sha256:{HEX}"),
        store_key.of_zip(HEX),
        store_key.of_version(VERSION, "tenant", "https://tenant.example/api"),
        store_key.of_version(longest),
    ):
        assert store_key.is_key(key)
        assert data_dir.is_component(key)


@pytest.mark.parametrize(
    "name", ["", VERSION, f"sha256-{HEX}", f"image-sha256-{HEX[1:]}", f"zip-sha256-{HEX}0", "_" + HEX]
)
def test_names_of_older_drivers_are_no_keys(name: str) -> None:
    assert not store_key.is_key(name)


def test_a_key_gives_back_what_it_names() -> None:
    image, zip_, version = (
        store_key.of_image(f"sha256:{HEX}"),
        store_key.of_zip(HEX),
        store_key.of_version(VERSION, "tenant"),
    )
    assert [store_key.image_digest(key) for key in (image, zip_, version)] == [f"sha256:{HEX}", "", ""]
    assert [store_key.zip_digest(key) for key in (image, zip_, version)] == ["", HEX, ""]
    assert [agent_version(key) for key in (image, zip_, version)] == [image, zip_, VERSION]
    assert store_key.split(version)[0] == VERSION
    assert store_key.split(image) == (image, "")


def test_every_part_of_a_source_counts() -> None:
    keys = {
        store_key.of_version(VERSION, *source)
        for source in (("a", "b"), ("ab",), ("a", "b", ""), ("a", ["b"]), (), ("b", "a"))
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    "text", ["", ".", ".a", "-a", "_a", "a/b", "a" * 101, f"sha256-{HEX}", f"Image-SHA256-{HEX}", "sha512-x", "a\n"]
)
def test_what_no_version_is_called(text: str) -> None:
    assert not is_version(text)
    assert is_version(VERSION)
