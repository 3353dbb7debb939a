"""Names of download files in `tmp/`: a later process resumes them or deletes them.

VERSION.zip                       a zip
VERSION.mirror.zip                a zip from the mirror: its part survives an attempt at the tenant
VERSION.SHA256.layer              a layer of an image, hashed again before it is used
each with .part and .part.json    while it is downloaded
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir

MAX_PART_AGE_SECONDS: Final = 86400.0

_MIRROR: Final = ".mirror"
_RESUMABLE: Final = (".zip.part", ".zip.part.json", ".layer", ".layer.part", ".layer.part.json")
_ZIP: Final = re.compile(rf"(.+?)({re.escape(_MIRROR)})?\.zip(\.part(\.json)?)?")
_LAYER: Final = re.compile(r"(.+)\.[0-9a-f]{64}\.layer(\.part(\.json)?)?")


def zip_file(stem: Path) -> Path:
    """Return the file of a zip; `stem` is `tmp/VERSION`."""
    return stem.with_name(f"{stem.name}.zip")


def mirror_zip_file(stem: Path) -> Path:
    """Return the file of a zip from the mirror."""
    return stem.with_name(f"{stem.name}{_MIRROR}.zip")


def layer_file(stem: Path, sha256: str) -> Path:
    """Return the file of an image's layer."""
    return stem.with_name(f"{stem.name}.{sha256}.layer")


def parse_version(name: str) -> Version | None:
    """Return the version that a file in `tmp/` belongs to; None if it is no download."""
    match = _ZIP.fullmatch(name) or _LAYER.fullmatch(name)
    return Version(match[1]) if match else None


def is_resumable(file: Path) -> bool:
    """Return True if a download can resume with this file."""
    return file.name.endswith(_RESUMABLE) and time.time() - file.lstat().st_mtime <= MAX_PART_AGE_SECONDS


def delete(data: DataDir, version: Version) -> None:
    """Delete all download files of a version, complete or not."""
    for file in data.tmp.iterdir():
        if parse_version(file.name) == version:
            file.unlink(missing_ok=True)
