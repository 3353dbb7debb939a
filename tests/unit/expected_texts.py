"""What commands print, held as text files: a change of the words, or of a column that is dropped, shows in the diff.

`EXPECTED_TEXTS=write pytest …` writes the files anew.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

WIDTHS: Final = (60, 80, 200)
of_this_argparse: Final = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="argparse names the values of flags once, since Python 3.13"
)
"""For help, which is held as older Pythons print it."""


def check(directory: Path, name: str, width: int, text: str) -> None:
    """Compare text with `NAME.WIDTH.txt`."""
    path = directory / f"{name}.{width}.txt"
    if os.environ.get("EXPECTED_TEXTS") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


_COMMAND: Final = re.compile(r" *((→|[Ww]hat to do:) )?(kubectl|mv) ")


def assert_fits(text: str, width: int) -> None:
    """Assert that only a line of one long word, such as a name, or a command to be copied is longer than the width."""
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) <= 2 or _COMMAND.match(line), line
