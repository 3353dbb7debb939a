"""The site of `make docs`, built from a copy, since the build leaves a cache beside its configuration."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
CONFIG: Final = ROOT / "zensical.toml"
DOCS: Final = ROOT / "docs"


def copied(directory: Path) -> Path:
    """Copy pages and configuration into the directory, and return it."""
    shutil.copytree(DOCS, directory / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CONFIG, directory)
    return directory


def build(directory: Path) -> subprocess.CompletedProcess[str]:
    """Build the copy, into `build/site` there."""
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=directory)
