"""A short run of the files of variables that `make fuzz` generates for long, also under AddressSanitizer."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import preload
from tests.fuzz import __main__ as fuzz
from tests.fuzz import preload_files


def test_any_file_gives_the_variables_that_are_documented() -> None:
    preload.library()  # skips
    tally = fuzz.batch("preload-file", 1, range(5_000))
    assert tally.failures == []
    assert {"", "few variables"} <= tally.results.keys()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc, which brings AddressSanitizer, is not on this machine")
def test_addresssanitizer_finds_nothing(tmp_path: Path) -> None:
    preload.library()
    program = tmp_path / "harness"
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-builtin")
    subprocess.run(["gcc", *flags, preload.SOURCES / "harness.c", "-o", program], check=True)
    harness = preload_files.Harness(program)
    for number in range(5_000):
        case = preload_files.generate(random.Random(f"asan/{number}"))
        assert harness.parse(case) == preload_files.expected(case)
    harness.close()
