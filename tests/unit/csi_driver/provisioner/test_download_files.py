"""Files of downloads belong to a version, and are resumed for a day."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.provisioner import download_files

SHA256 = "0123456789abcdef" * 4


def names(stem: Path) -> list[str]:
    files = (
        download_files.zip_file(stem),
        download_files.mirror_zip_file(stem),
        download_files.layer_file(stem, SHA256),
    )
    return [f"{file.name}{suffix}" for file in files for suffix in ("", ".part", ".part.json")]


def test_each_file_belongs_to_its_version() -> None:
    assert {download_files.parse_version(name) for name in names(Path("/tmp/1.2.3"))} == {Version("1.2.3")}


@pytest.mark.parametrize("name", ["1.2.3", "1.2.3.tar", f"1.2.3.{SHA256[1:]}.layer", "1.2.3.zip.part.txt", ".zip"])
def test_other_files_belong_to_none(name: str) -> None:
    assert download_files.parse_version(name) is None


def test_all_files_of_one_version_are_deleted(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    for version in ("1.2.3", "1.2.4"):
        for name in names(data.tmp / version):
            (data.tmp / name).touch()
    (data.tmp / "unpacking").mkdir()
    download_files.delete(data, Version("1.2.3"))
    assert {path.name for path in data.tmp.iterdir()} == {*names(data.tmp / "1.2.4"), "unpacking"}


@pytest.mark.parametrize(
    ("name", "age_seconds", "resumable"),
    [
        ("1.zip.part", 0, True),
        ("1.zip.part.json", 86_000, True),
        (f"1.{SHA256}.layer", 86_000, True),
        (f"1.{SHA256}.layer.part", 0, True),
        ("1.zip.part", 86_500, False),
        ("1.zip", 0, False),
        ("unpacking", 0, False),
    ],
)
def test_parts_and_layers_are_resumed_for_a_day(tmp_path: Path, name: str, age_seconds: float, resumable: bool) -> None:
    file = tmp_path / name
    file.touch()
    at = time.time() - age_seconds
    os.utime(file, (at, at))
    assert download_files.is_resumable(file) == resumable
