"""Trees as a hostile pod writes them: deeper than any path, or wider than memory."""

from __future__ import annotations

import os
from pathlib import Path


def write_deep(top: Path, levels: int, name: str = "d") -> None:
    """Make directories in each other, by descriptors: no path reaches the lowest."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def write_wide(top: Path, names: int) -> None:
    """Make names of one empty file: links are made faster than files. Some file systems allow 32,000 of one file."""
    here, first = os.open(top, os.O_RDONLY | os.O_DIRECTORY), ""
    for number in range(names):
        if number % 30_000 == 0:
            first = f"file{number}"
            os.mknod(first, dir_fd=here)
        else:
            os.link(first, f"link{number}", src_dir_fd=here, dst_dir_fd=here)
    os.close(here)
